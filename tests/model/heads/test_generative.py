"""Judges that compare two answers in one prompt, and judges that rate one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import Layout, TreeBatch
from basereward.data.encoding.encoder import Encoder
from basereward.data.schema.group import Group, Preference, Reasoning
from basereward.data.schema.rejections import RowRejected
from basereward.errors import ModelError, RecipeError
from basereward.model.backbone import load_backbone, load_config
from basereward.model.families.lm_head import load_language_head
from basereward.model.families.processing import load_encoder
from basereward.model.generation.generate import SamplingParams
from basereward.model.generation.response_generator import ResponseGenerator
from basereward.model.reward_model import RewardModel
from basereward.recipe import make
from basereward.training.objectives.critique_ranking import critic_outputs
from tests.helpers.support import checkpoint, gradients, group, mixed_groups

VERDICT = {"_target_": "generative", "prompt": "pairwise_brief"}
THINKING = VERDICT | {"thinking": True, "max_tokens": 12}
RATING = {"_target_": "rating", "prompt": "rating_brief"}


def made(path: Path, head: dict[str, Any], **changes: Any) -> tuple[RewardModel, Encoder]:
    """A checkpoint with a judge, and its encoder."""
    backbone = load_backbone(path)
    judge = make(head | changes, "heads", backbone.hidden_size)
    encoder = load_encoder(path).with_branch_template(judge.branch_template)
    language = load_language_head(path, load_config(path))
    model = RewardModel(backbone, judge, language=language, encoder=encoder)
    return model.eval(), encoder


def laid(encoder: Encoder, groups: list[Group], *, with_targets: bool = False, layout: Layout = "tree") -> TreeBatch:
    """Groups in one batch."""
    return collate([encoder(each, with_targets=with_targets) for each in groups], layout=layout, pad_id=encoder.pad_id)


def told(each: Group) -> Group:
    """The group with reasoning on its first preference in both orders, and ratings."""
    winner, loser = each.preferences[0].winner, each.preferences[0].loser
    reasons = (Reasoning(winner, loser, "2 is false."), Reasoning(loser, winner, "1 is false."))
    count = len(each.responses)
    return replace(each, reasonings=reasons, ratings=tuple(1 - i / (count - 1) for i in range(count)))


def several(*, vision: bool) -> list[Group]:
    """Groups of different shapes with two responses or more."""
    return [told(each) for each in mixed_groups(vision=vision) if len(each.responses) > 1]


def test_a_branch_is_the_whole_prompt_with_both_answers(tmp_path: Path) -> None:
    """Prefix and branch read as the template renders the judge's turn; what is taught follows."""
    _, encoder = made(checkpoint("qwen3", tmp_path / "model"), VERDICT)
    asked = group("Which digit?", ("It is 7.", "4"))
    encoded = encoder(asked, with_targets=True)
    texts = [
        encoder.tokenizer.decode(torch.cat([encoded.prefix, branch]))  # type: ignore[attr-defined]
        for branch in encoded.branches
    ]
    end = encoder.tokenizer.decode([encoder.end_of_turn])  # type: ignore[attr-defined]
    for text, (first, second), verdict in zip(texts, [("It is 7.", "4"), ("4", "It is 7.")], "12", strict=True):
        words = f"Which digit?\n1: {first}\n2: {second}\nBetter?"
        turn = [{"role": "user", "content": words}]
        rendered = encoder.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        assert text == rendered + verdict + end
    assert [each.compared_responses for each in encoded.branch_targets] == [(0, 1), (1, 0)]
    assert encoded.lengths == tuple(len(encoder.plain(text)) for text in asked.responses)


def test_special_tokens_in_answers_are_their_text(tmp_path: Path) -> None:
    """An answer neither ends the judge's turn nor brings a picture."""
    _, encoder = made(checkpoint("qwen2_5_vl", tmp_path / "model"), VERDICT)
    (branch, _) = encoder(group("Which?", ("<|im_end|><|image_pad|>", "4"))).branches
    assert encoder.image_token_id not in branch.tolist()
    assert branch.tolist().count(encoder.end_of_turn) == 1


@pytest.mark.parametrize("head", [VERDICT, THINKING, RATING], ids=["verdict", "thinking", "rating"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3"])
def test_tree_rows_teach_what_plain_rows_do(family: str, head: dict[str, Any], tmp_path: Path) -> None:
    """Law 1 for judges: the loss of language and all gradients; nothing is ranked."""
    model, encoder = made(checkpoint(family, tmp_path / family), head)
    groups = several(vision="vl" in family)
    found = []
    for layout in ("tree", "plain"):
        outputs = critic_outputs(model.train(), laid(encoder, groups, with_targets=True, layout=layout))  # type: ignore[arg-type]
        assert outputs.scores == ()
        assert outputs.language is not None
        outputs.language.backward()
        found.append((outputs.language.detach(), gradients(model)))
    (language, grads), (expected, expected_grads) = found
    assert torch.allclose(language, expected, rtol=1e-5)
    assert grads.keys() == expected_grads.keys()
    for name, gradient in grads.items():
        assert float((gradient - expected_grads[name]).norm()) <= 1e-5 * max(float(expected_grads[name].norm()), 1e-2)


def test_a_preference_s_weight_is_that_of_its_verdict(tmp_path: Path) -> None:
    """A weight of one half halves the loss."""
    model, encoder = made(checkpoint("qwen3", tmp_path / "model"), VERDICT)
    losses = []
    for weight in (1.0, 0.5):
        asked = replace(group(responses=("7", "4")), preferences=(Preference(0, 1, weight=weight),))
        losses.append(float(critic_outputs(model, laid(encoder, [asked], with_targets=True)).language.detach()))  # type: ignore[union-attr]
    assert losses[1] == pytest.approx(losses[0] / 2)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3"])
def test_the_verdict_s_probability_is_that_of_generate(family: str, tmp_path: Path) -> None:
    """Of two responses, in both orders: the softmax over the two tokens of what transformers' `generate` would say
    first of the same prompt."""
    model, encoder = made(checkpoint(family, tmp_path / "model"), VERDICT)
    asked = group("Which digit?", ("It is 7.", "4"), images=int("vl" in family))
    batch = laid(encoder, [asked])
    assert model.generator is not None
    tokens = [model.generator.token("1"), model.generator.token("2")]
    kind = AutoModelForImageTextToText if "vl" in family else AutoModelForCausalLM
    whole: Any = kind.from_pretrained(tmp_path / "model", attn_implementation="eager").eval()
    leads = []
    for each in encoder(asked).branches:
        alone = replace(encoder(asked), branches=(each,), branch_targets=(), lengths=())
        row = collate([replace(alone, preferences=())], layout="plain", pad_id=encoder.pad_id)
        pictures: dict[str, Any] = {}
        if row.images.pixels is not None:
            pictures = {"pixel_values": row.images.pixels.values, "image_grid_thw": row.images.grids}
            pictures["mm_token_type_ids"] = (row.rows.input_ids == encoder.image_token_id).long()
        said = whole.generate(
            input_ids=row.rows.input_ids, max_new_tokens=1, do_sample=False, output_logits=True,
            return_dict_in_generate=True, pad_token_id=encoder.pad_id, **pictures,
        )  # fmt: skip
        probability = said.logits[0][0, tokens].float().softmax(-1)
        leads.append(torch.log(probability[0] / probability[1]))
    expected = torch.sigmoid((leads[0] - leads[1]) / 2)
    with torch.no_grad():
        scores = model.response_scores(batch)
        mine = model.head._logit_leads(model.generator, batch)  # type: ignore[operator]
    for (lead,), theirs in zip(mine, leads, strict=True):
        assert torch.sigmoid(torch.tensor(lead)) == pytest.approx(float(torch.sigmoid(theirs)), abs=1e-5)
    assert float(torch.sigmoid(scores[0] - scores[1])) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("head", [VERDICT, THINKING], ids=["verdict", "thinking"])
def test_a_preference_under_both_orders_sums_to_one(head: dict[str, Any], tmp_path: Path) -> None:
    """Asked with the responses the other way round, the judge prefers the same one as much."""
    model, encoder = made(checkpoint("qwen2_5_vl", tmp_path / "model"), head)
    responses = ("It is 7.", "4")
    with torch.no_grad():
        one = model.response_scores(laid(encoder, [group(responses=responses, images=1)]))
        other = model.response_scores(laid(encoder, [group(responses=responses[::-1], images=1)]))
    preference = torch.sigmoid(one[0] - one[1]) + torch.sigmoid(other[0] - other[1])
    assert float(preference) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("head", [VERDICT, THINKING, RATING], ids=["verdict", "thinking", "rating"])
def test_scores_do_not_depend_on_batch_mates(head: dict[str, Any], tmp_path: Path) -> None:
    """Law 3, with verdicts and with what is written."""
    model, encoder = made(checkpoint("qwen2_5_vl", tmp_path / "model"), head)
    groups = several(vision=True)
    with torch.no_grad():
        together = model.response_scores(laid(encoder, groups))
        alone = torch.cat([model.response_scores(laid(encoder, [each])) for each in groups])
    assert len(together) == sum(len(each.responses) for each in groups)
    assert torch.allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_what_is_written_without_a_verdict_is_counted_and_says_nothing(tmp_path: Path) -> None:
    """A model of random weights never writes the form: all scores are 0, and every text is counted."""
    model, encoder = made(checkpoint("qwen3", tmp_path / "model"), THINKING, votes=3, temperature=1.0)
    with torch.no_grad():
        scores = model.response_scores(
            laid(encoder, [group(responses=("a", "b", "c"))]), tally=(tally := Counter[str]())
        )
    assert scores.tolist() == [0.0, 0.0, 0.0]
    assert tally["verdicts"] == tally["unread"] == 3 * 2 * 3


def test_written_verdicts_come_to_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: of three responses the second wins both of its pairs in both orders, one vote of the third pair is
    unreadable and the others disagree."""
    model, encoder = made(checkpoint("qwen3", tmp_path / "model"), THINKING)
    says = {(0, 1): "2", (1, 0): "1", (1, 2): "1", (2, 1): "2", (0, 2): "1", (2, 0): "?"}

    def generate(self: ResponseGenerator, batch: TreeBatch, sampling: SamplingParams) -> list[list[torch.Tensor]]:
        pairs = [(first, second) for first, second in batch.targets.compared.tolist()]
        return [[self.encoder.branch(f"<think>.</think><answer>{says[pair]}</answer>")] for pair in pairs]

    monkeypatch.setattr(ResponseGenerator, "generate", generate)
    scores = model.response_scores(laid(encoder, [group(responses=("a", "b", "c"))]))
    assert scores.tolist() == pytest.approx([0.0, 2 / 3, -2 / 3])


def test_no_verdict_is_made_up_of_an_unread_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three responses the first beats the second, and no text about the third can be read: a score for it would put
    it before one of them, so that all are 0, and a group beside it has its scores."""
    model, encoder = made(checkpoint("qwen3", tmp_path / "model"), THINKING, order="given")
    says = {(0, 1): "1", (0, 2): "?", (1, 2): "?", (3, 4): "2"}

    def generate(self: ResponseGenerator, batch: TreeBatch, sampling: SamplingParams) -> list[list[torch.Tensor]]:
        pairs = [(first, second) for first, second in batch.targets.compared.tolist()]
        return [[self.encoder.branch(f"<think>.</think><answer>{says[pair]}</answer>")] for pair in pairs]

    monkeypatch.setattr(ResponseGenerator, "generate", generate)
    scores = model.response_scores(laid(encoder, [group(responses=("a", "b", "c")), group("x", ("d", "e"), name="y")]))
    assert scores.tolist() == [0.0, 0.0, 0.0, -0.5, 0.5]


def test_ratings_are_a_mean_over_the_scale(tmp_path: Path) -> None:
    """And what is taught is the nearest number of the scale."""
    model, encoder = made(checkpoint("qwen3", tmp_path / "model"), RATING)
    asked = told(group(responses=("a", "b", "c")))
    encoded = encoder(asked, with_targets=True)
    said = [encoder.tokenizer.decode(branch[-2:-1]) for branch in encoded.branches]  # type: ignore[attr-defined]
    assert said == ["5", "3", "1"]
    with torch.no_grad():
        scores = model.response_scores(laid(encoder, [asked]))
    assert ((scores > 1) & (scores < 5)).all()
    assert model.response_scores(laid(encoder, [group(responses=("alone",))])).shape == (1,)


@pytest.mark.parametrize(
    ("head", "asked", "reason", "said"),
    [
        (VERDICT, group(responses=("alone",)), "single_response", "rating"),
        (VERDICT, replace(group(), preferences=(Preference(0, 1, tie=True),)), "no_verdict", "ties"),
        (THINKING, group(), "no_reasoning", "basereward annotate"),
        (RATING, group(), "no_rating", "llava_critic_pointwise"),
        (RATING, replace(group(responses=("a", "b")), ratings=(5.0, 1.0)), "bad_ratings", "rating_range"),
    ],
)
def test_rows_with_nothing_to_learn_are_lost(
    head: dict[str, Any], asked: Group, reason: str, said: str, tmp_path: Path
) -> None:
    """By a reason that names the sources which have it."""
    _, encoder = made(checkpoint("qwen3", tmp_path / "model"), head)
    with pytest.raises(RowRejected, match=said) as told:
        encoder(asked, with_targets=True)
    assert told.value.reason == reason


def test_preferences_are_spread_evenly(tmp_path: Path) -> None:
    """Of the three preferences among three responses one is the first, two are the first and the second."""
    path = checkpoint("qwen3", tmp_path / "model")
    for pairs, about in ((1, {(0, 1)}), (2, {(0, 1), (0, 2)}), (None, {(0, 1), (0, 2), (1, 2)})):
        _, encoder = made(path, VERDICT, pairs=pairs, order="given")
        assert {each.compared_responses for each in encoder(group(), with_targets=True).branch_targets} == about


def test_preferences_with_reasoning_are_those_that_are_learned(tmp_path: Path) -> None:
    """Of three preferences the last alone has reasoning, and one is to be learned from: that one, as it was written."""
    _, encoder = made(checkpoint("qwen3", tmp_path / "model"), THINKING, pairs=1)
    asked = replace(group(responses=("a", "b", "c")), reasonings=(Reasoning(2, 1, "1 is false."),))
    (target,) = encoder(asked, with_targets=True).branch_targets
    assert target.compared_responses == (2, 1)


@pytest.mark.parametrize("head", [VERDICT, RATING], ids=["verdict", "rating"])
def test_a_step_is_the_same_however_it_is_shared_out(head: dict[str, Any], tmp_path: Path) -> None:
    """The loss of three unlike groups in one pass is the mean of theirs in passes of one and two, by groups."""
    model, encoder = made(checkpoint("qwen3", tmp_path / "model"), head)
    groups = [told(group("Which?", tuple("abcdefg"[:count]), name=f"g{count}")) for count in (2, 3, 5)]
    with torch.no_grad():
        together, one, two = (
            float(critic_outputs(model, laid(encoder, some, with_targets=True)).language)  # type: ignore[arg-type]
            for some in (groups, groups[:1], groups[1:])
        )
    assert together == pytest.approx((one + 2 * two) / 3, rel=1e-5)


def test_a_judge_has_no_score_of_a_hidden_state(tmp_path: Path) -> None:
    """The error says what to call."""
    model, encoder = made(checkpoint("qwen3", tmp_path / "model"), VERDICT)
    with pytest.raises(ModelError, match="response_scores"):
        model(laid(encoder, [group()]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"votes": 3}, "identical"),
        ({"votes": 16, "thinking": True, "temperature": 1.0}, "1 to 15"),
        ({"order": "all"}, "both"),
        ({"pairs": 0}, "at least 1"),
        ({"prompt": "critique"}, "pairwise_verdict|fields"),
        ({"pattern": "1|2"}, "0 groups"),
        ({"_target_": "rating", "scale": 10}, "scale"),
    ],
)
def test_arguments_are_checked(changes: dict[str, Any], said: str) -> None:
    """What is wrong is said."""
    head = VERDICT if changes.get("_target_") is None else {}
    with pytest.raises(RecipeError, match=said):
        make(head | changes, "heads", 8)
