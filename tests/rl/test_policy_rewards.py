"""Test the rewards of policies: what each text earns, that all rollouts of a prompt are one tree row with the scores of
`score`, calibration, ensembles, judges, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from basereward.data.schema.group import Group
from basereward.errors import DataError, ModelError, RecipeError, SilentError
from basereward.inference.judges.endpoint import Endpoint
from basereward.inference.rewards.reward_source import LocalRewards
from basereward.inference.scorer import Scorer, load_scorer
from basereward.recipe import make
from basereward.rl.exact_match import exact_match
from basereward.rl.rewards.contracts import PolicyReward, RolloutReward
from basereward.rl.rewards.ensemble import EnsembleReward
from basereward.rl.rewards.hybrid import HybridReward
from basereward.rl.rewards.judge_sum import JudgeSumReward
from basereward.rl.rewards.model import ModelReward
from basereward.rl.rewards.rule import RuleReward
from basereward.rl.rewards.verdict import JudgeReward
from tests.helpers.chat_servers import serving
from tests.helpers.judge_training import pair_groups
from tests.helpers.served_model import save_scored_model
from tests.helpers.support import checkpoint, group

TEXTS = ["3", "It is 5.", "3", "", "three", "It is 3, I think.", "3.", "no"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a reward model that reads pictures."""
    shared = tmp_path_factory.mktemp("policy_rewards")
    save_scored_model(shared, head="mlp")
    return shared


@pytest.fixture(scope="module")
def scorer(folder: Path) -> Scorer:
    """The reward model."""
    return load_scorer(folder / "model")


def earned(reward: PolicyReward, groups: Sequence[Group], texts: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """The rewards of the same texts for each group, as a trainer asks for them, and what is logged."""
    table = reward.rows(groups)
    rows = [table[place] for place in range(len(groups)) for _ in texts]
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
    completions = [[{"role": "assistant", "content": text}] for _ in groups for text in texts]
    logged: dict[str, Any] = {}
    log = logged.__setitem__
    return reward([row["prompt"] for row in rows], completions, log_extra=log, log_metric=log, **columns), logged


def sigmoid(score: float) -> float:
    """A number from 0 to 1."""
    return 1 / (1 + math.exp(-score))


def test_rule_is_1_for_an_exact_match_alone() -> None:
    """Case, spaces and a full stop at the end do not count; anything else does."""
    rewards, logged = earned(RuleReward(), pair_groups(1), TEXTS)
    assert rewards == [1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert logged["right"] == [value == 1 for value in rewards]
    assert (logged["policy/exact_match"], logged["policy/empty"]) == (3 / 8, 1 / 8)
    assert (logged["policy/reward_right"], logged["policy/reward_wrong"]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("<think>7? No, 3.</think> 3 ", True),
        ("<think>3</think>7", False),
        ("So: <answer>3</answer> or <answer> 3.</answer>", True),
        ("3.0", False),
        ("\N{FULLWIDTH DIGIT THREE}", True),
        ("3 3", False),
    ],
)
def test_exact_match(text: str, right: bool) -> None:
    """Reasoning is no answer; the last tagged answer counts."""
    assert exact_match(text, ["3"]) is right


def test_rollouts_are_one_tree_row_with_the_scores_of_score(folder: Path, scorer: Scorer, monkeypatch: Any) -> None:
    """sigma(r) of each text, with a picture and without, where r is what `score` gives for the text; each prompt is
    encoded once, with each of its distinct texts as a branch."""
    reward = ModelReward(model=str(folder / "model"))
    groups = pair_groups(3, images=(1, 0, 1))
    encoded: list[int] = []
    original = Scorer.encode
    monkeypatch.setattr(Scorer, "encode", lambda self, one: encoded.append(len(one.responses)) or original(self, one))
    rewards, logged = earned(reward, groups, TEXTS)
    # One of each kind is scored when the rows are made, to refuse a model that cannot read them.
    assert encoded == [1, 1, 7, 7, 7]
    for place, one in enumerate(groups):
        scores = scorer.score(one.prompt[0].parts[-1].text or "", TEXTS, images=one.images)
        own = rewards[8 * place : 8 * place + 8]
        assert own == pytest.approx([sigmoid(score) for score in scores], abs=1e-6)
    right = [value for place, value in enumerate(rewards) if TEXTS[place % 8] in ("3", "3.")]
    wrong = [value for place, value in enumerate(rewards) if TEXTS[place % 8] not in ("3", "3.")]
    assert logged["policy/reward_right"] == pytest.approx(np.mean(right))
    assert logged["policy/wrong_probability"] == pytest.approx(np.mean(wrong))
    assert logged["policy/reward_wrong_p10"] <= logged["policy/reward_wrong_p50"] <= logged["policy/reward_wrong_p90"]


def test_scales(folder: Path, scorer: Scorer) -> None:
    """The saved mean is 0.5 and the deviation 2; a clip limits raw scores."""
    (one,) = pair_groups(1)
    scores = scorer.score("Digit 0?", ["3", "5"], images=one.images)
    expected = {
        "raw": scores,
        "standardised": [(score - 0.5) / 2 for score in scores],
        "centred": [sigmoid(score - 0.5) for score in scores],
    }
    for scale, values in expected.items():
        reward = make({"_target_": "model", "model": str(folder / "model"), "scale": scale}, "rewards")
        assert earned(reward, [one], ["3", "5"])[0] == pytest.approx(values, abs=1e-5)
        assert reward.is_probability is (scale == "centred")
    clipped = make({"_target_": "model", "model": str(folder / "model"), "scale": "raw", "clip": 1e-3}, "rewards")
    assert max(map(abs, earned(clipped, [one], ["3", "5"])[0])) <= 1e-3


class Known(LocalRewards):
    """A source whose scores are given by text, without a model."""

    def __init__(self, scores: dict[str, float]) -> None:
        self.known = scores
        self._unscorable, self._scale, self._clip = math.nan, "raw", None

    statistics: Any = {}  # noqa: RUF012

    def _results(self, groups: Sequence[Group]) -> Any:
        return [[self.known[response] for response in one.responses] for one in groups]


def known_reward(scores: dict[str, float], **options: Any) -> ModelReward:
    """A model reward with given scores."""
    reward = ModelReward.__new__(ModelReward)
    reward._set_up(
        Known(scores), "known", **{"scale": "calibrated", "clip": None, "calibration_groups": 200, **options}
    )
    return reward


def test_calibration_makes_wrong_answers_improbable() -> None:
    """Scores of right answers are about 9 and those of wrong ones about 7: sigma(r) is above 0.99 for all, and after
    the calibration the mean over right answers is above 0.8 and that over wrong ones below 0.2."""
    rng = np.random.default_rng(0)
    scores: dict[str, float] = {}
    groups: list[Group] = []
    for number in range(100):
        pair = (f"right {number}", f"wrong {number}")
        scores |= {pair[0]: 9 + rng.normal(), pair[1]: 6 + rng.normal()}
        groups.append(group(f"{number}?", pair, name=str(number)))
    reward = known_reward(scores)
    reward.rows(groups)
    middle = -reward.offset / reward.slope
    assert 7 < middle < 8
    rights = [reward._on_scale([scores[f"right {n}"]])[0] or 0 for n in range(100)]
    wrongs = [reward._on_scale([scores[f"wrong {n}"]])[0] or 0 for n in range(100)]
    assert np.mean(rights) > 0.8
    assert np.mean(wrongs) < 0.2
    assert np.mean([sigmoid(scores[f"wrong {n}"]) for n in range(100)]) > 0.97


def test_calibration_leaves_out_responses_that_no_preference_mentions() -> None:
    """They may be right: a third response with any score changes neither slope nor offset."""
    pairs = [group(f"{n}?", (f"right {n}", f"wrong {n}"), name=str(n)) for n in range(20)]
    scores = {f"right {n}": 2.0 + 0.1 * n for n in range(20)} | {f"wrong {n}": 0.2 * n for n in range(20)}
    scores |= {f"other {n}": 9.0 for n in range(20)}
    fitted = []
    for groups in (pairs, [replace(one, responses=(*one.responses, f"other {one.id}")) for one in pairs]):
        reward = known_reward(scores)
        reward.rows(groups)
        fitted.append((reward.slope, reward.offset))
    assert fitted[0] == fitted[1]


def test_calibration_of_a_model_that_prefers_wrong_answers_is_refused() -> None:
    """The policy would learn to write wrong answers, so the calibration is an error."""
    groups = [group(f"{n}?", (f"right {n}", f"wrong {n}"), name=str(n)) for n in range(20)]
    scores = {
        text: float(text.startswith("wrong")) + 0.01 * n for n, one in enumerate(groups) for text in one.responses
    }
    with pytest.raises(DataError, match="slope"):
        known_reward(scores).rows(groups)
    single = [Group(str(n), "test", groups[0].prompt, (f"right {n}",)) for n in range(20)]
    with pytest.raises(DataError, match="one kind"):
        known_reward(scores).rows(single)


def test_hybrid_is_1_for_an_exact_match_and_else_the_probability(folder: Path, scorer: Scorer) -> None:
    """Wrong texts earn sigma(r)."""
    (one,) = pair_groups(1)
    rewards, _ = earned(HybridReward(model=str(folder / "model")), [one], ["3", "5", "3."])
    (score,) = scorer.score("Digit 0?", ["5"], images=one.images)
    assert rewards == [1.0, pytest.approx(sigmoid(score), abs=1e-6), 1.0]


def test_ensemble_standardises_its_members_first(folder: Path, scorer: Scorer, tmp_path: Path) -> None:
    """The mean minus k deviations, and the worst, of the scores (r - 0.5) / 2 of each member."""
    other = save_scored_model(tmp_path, head="mlp", backbone=folder / "backbone", layers=3)
    names = [str(folder / "model"), str(other)]
    (one,) = pair_groups(1)
    scores = np.array(
        [model.score("Digit 0?", ["3", "5"], images=one.images) for model in (scorer, load_scorer(other))]
    )
    standard = (scores - 0.5) / 2
    expected = {
        "pessimistic": standard.mean(0) - 0.7 * standard.std(0),
        "worst": standard.min(0),
        "mean": standard.mean(0),
    }
    for how, values in expected.items():
        reward = EnsembleReward(models=names, how=how, k=0.7, scale="raw")  # type: ignore[arg-type]
        assert earned(reward, [one], ["3", "5"])[0] == pytest.approx(values.tolist(), abs=1e-5)
    raw = EnsembleReward(models=names, how="worst", standardise=False, scale="raw")
    assert earned(raw, [one], ["3", "5"])[0] == pytest.approx(scores.min(0).tolist(), abs=1e-5)
    with pytest.raises(DataError, match="two members"):
        EnsembleReward(models=names[:1])
    with pytest.raises(ModelError, match="twice"):
        EnsembleReward(models=[names[0], names[0]])


def judge_sum(server: Any, **options: Any) -> JudgeSumReward:
    """A judge at a server that repeats failed requests at once."""
    reward = JudgeSumReward(model="judge", endpoint=server.url, **options)
    reward.engine = Endpoint(server.url, "judge", attempts=1, first_wait_s=0.0, timeout_s=60.0)
    return reward


def test_judge_sum_asks_56_ordered_pairs_of_eight_rollouts() -> None:
    """The judge prefers the larger number: the reward is the number of smaller rollouts."""

    def reply(body: dict[str, Any], number: int) -> str:
        numbers = [int(word) for word in json.dumps(body["messages"]).replace('"', " ").split() if word.isdigit()]
        return f"<think>so</think><answer>{1 if numbers[-2] > numbers[-1] else 2}</answer>"

    texts = ["10", "70", "30", "40", "20", "60", "50", "80"]
    with serving(reply) as server:
        reward = judge_sum(server, prompt_file=None)
        reward.prompt = type(reward.prompt)("p", "{question} first {answer_1} second {answer_2} end")
        rewards, logged = earned(reward, pair_groups(1, images=(0,)), texts)
    assert len(server.asked) == 56
    assert rewards == [0.0, 6.0, 2.0, 3.0, 1.0, 5.0, 4.0, 7.0]
    assert logged["policy/no_verdict"] == 0.0


def drawn(body: dict[str, Any], number: int) -> str:
    """A verdict that a server draws from the seed of the request alone."""
    return f"<answer>{1 + body['seed'] % 2}</answer>"


def test_sampled_verdict_depends_on_its_row_and_texts_alone() -> None:
    """A judge that draws its verdicts gives every rollout the same reward alone, after other prompts and in another
    order of the rollouts; equal rows are asked about once."""
    groups, texts = pair_groups(3, images=(0, 0, 0)), ["1", "2", "3", "4", "5"]
    with serving(drawn) as server:
        alone = [earned(judge_sum(server), [group], texts)[0] for group in groups]
        together = earned(judge_sum(server), groups[::-1], texts)[0]
        shuffled = earned(judge_sum(server), [groups[0]], texts[::-1])[0]
        asked = len(server.asked)
        twice = earned(judge_sum(server), [groups[0], groups[0]], texts)[0]
        asked_twice = len(server.asked) - asked
    assert together == alone[2] + alone[1] + alone[0]
    assert shuffled == alone[0][::-1]
    assert twice == alone[0] * 2
    assert asked_twice == 20
    # The verdicts are not those of a judge without seeds, which would give every rollout the same.
    assert len(set(map(tuple, alone))) == 3


def test_judge_that_is_unreadable_or_dead_costs_no_rollout_a_wrong_reward() -> None:
    """Without a verdict there is no reward; a judge that answers nothing in three calls stops the training."""
    with serving(lambda body, number: "perhaps") as server:
        rewards, logged = earned(judge_sum(server), pair_groups(1), ["1", "2", "2"])
        # Two equal texts say nothing about whether they are better than the third.
        assert rewards == [None, None, None]
        assert logged["policy/no_verdict"] == 1.0
        assert logged["policy/unscorable"] == 1.0
    with serving(lambda body, number: 500) as server:
        reward = judge_sum(server)
        texts = [str(number) for number in range(8)]
        for _ in range(2):
            assert earned(reward, pair_groups(1), texts)[0] == [None] * 8
        with pytest.raises(SilentError):
            earned(reward, pair_groups(1), texts)


def test_policy_that_writes_nothing_or_too_much_loses_nothing(folder: Path, scorer: Scorer) -> None:
    """An empty text has its score, one that the model cannot read has no reward, and the others keep theirs."""
    reward = ModelReward(model=str(folder / "model"))
    (one,) = pair_groups(1, images=(0,))
    rewards, logged = earned(reward, [one], ["", "five " * 20_000, "3"])
    scores = scorer.score("Digit 0?", ["", "3"])
    assert rewards == [pytest.approx(sigmoid(scores[0])), None, pytest.approx(sigmoid(scores[1]))]
    assert logged["policy/unscorable"] == pytest.approx(1 / 3)


def test_model_with_another_tokenizer_scores_the_text(tmp_path: Path) -> None:
    """Every byte has another id than in the policy's tokenizer, and the reward is the model's score of the text."""
    path = checkpoint("qwen2_5_vl", tmp_path / "backbone")
    content = json.loads((path / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = dict(zip(vocabulary, reversed(vocabulary.values()), strict=True))
    (path / "tokenizer.json").write_text(json.dumps(content))
    model = save_scored_model(tmp_path, head="linear", backbone=path)
    other = load_scorer(model)
    plain = checkpoint("qwen2_5_vl", tmp_path / "policy")
    from basereward.model.policy import load_policy

    policy = load_policy(plain)
    own = policy.processor.tokenizer("It is 5.")["input_ids"]  # type: ignore[union-attr]
    assert other.encoder.plain("It is 5.").tolist() != own
    groups = pair_groups(1)
    rewards, _ = earned(ModelReward(model=str(model), scale="raw"), groups, ["3", "It is 5."])
    assert rewards == pytest.approx(other.score("Digit 0?", ["3", "It is 5."], images=groups[0].images), abs=1e-5)


def test_model_without_eyes_is_refused_for_prompts_with_pictures(tmp_path: Path) -> None:
    """The error comes with the rows, before anything is trained; text alone is scored."""
    model = save_scored_model(tmp_path, head="linear", backbone=checkpoint("qwen3", tmp_path / "backbone"))
    reward = ModelReward(model=str(model))
    with pytest.raises(DataError, match="with images"):
        reward.rows(pair_groups(4, images=(0, 1)))
    assert len(earned(reward, pair_groups(2, images=(0,)), ["3"])[0]) == 2


def test_rows_without_a_reference_answer_are_counted_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    """A row without a preference has no reference answer: it is counted, and an error if there is no other row."""
    no_answer = Group("b", "test", pair_groups(1)[0].prompt, ("4", "5"))
    with caplog.at_level("WARNING", "basereward.rl"):
        table = RuleReward().rows([*pair_groups(2), no_answer])
    assert (len(table), table[0]["answer"]) == (2, ["3"])
    assert "1 of 3" in caplog.text
    with pytest.raises(DataError, match="reference answer"):
        RuleReward().rows([no_answer])
    with pytest.raises(DataError, match="columns"):
        RuleReward()([[]], ["3"])


def test_equal_ids_of_two_sources_are_two_prompts() -> None:
    """The column `row` tells prompts with equal ids apart."""
    first, second = pair_groups(2)
    twin = Group(first.id, "other", second.prompt, ("8", "9"), second.preferences, images=second.images)
    rewards, _ = earned(RuleReward(), [first, twin], ["3", "8"])
    assert rewards == [1.0, 0.0, 0.0, 1.0]


def test_held_out_measures_of_a_policy_and_of_a_judge() -> None:
    """Exact match, mean reward and length; for a judge the accuracy and the agreement over both orders."""
    groups = pair_groups(4)
    table = RuleReward()
    rows = [dict(row) for row in table.held_out_rows(groups)]
    assert table.measures(rows, ["3", "3.", "8", ""]) == {"exact_match": 0.5, "reward": 0.5, "characters": 1.0}
    judge = JudgeReward()
    asked = [dict(row) for row in judge.held_out_rows(groups)]
    assert [row["label"] for row in asked] == [1, 2] * 4
    first = ["<think>a</think><answer>1</answer>"] * 8
    assert judge.measures(asked, first)["accuracy"] == 0.5
    assert judge.measures(asked, first)["pair_accuracy"] == 0.0
    assert judge.measures(asked, first)["order_consistency"] == 0.0
    right = [f"<think>a</think><answer>{row['label']}</answer>" for row in asked]
    measures = judge.measures(asked, [*right[:-2], "?", "?"])
    expected = {"pair_accuracy": 0.75, "accuracy": 0.75, "order_consistency": 0.75, "format": 0.75, "no_verdict": 0.25}
    assert measures == expected
    # One verdict of a pair is enough, as in its scores; two that contradict each other are not.
    assert judge.measures(asked, [*right[:-1], "?"])["pair_accuracy"] == 1.0


@pytest.mark.parametrize("name", ["verdict", "rule"])
def test_rewards_are_found_by_the_name_of_their_file(name: str) -> None:
    """Each is a reward, by the kind of a node."""
    assert isinstance(make({"_target_": name}, "rewards"), RolloutReward)


def test_wrong_settings_of_a_reward_name_the_key() -> None:
    """Before anything is loaded."""
    with pytest.raises(RecipeError, match="scal"):
        make({"_target_": "model", "model": "RUN", "scale": "sigmod"}, "rewards")
    with pytest.raises(RecipeError, match="model"):
        make({"_target_": "hybrid"}, "rewards")
