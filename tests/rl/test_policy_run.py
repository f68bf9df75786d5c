"""Runs of reinforcement learning are runs like every other: recorded, resumed with the same bits, saved, opened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trl.data_utils import prepare_multimodal_messages

from basereward.data.batching.collate import collate
from basereward.errors import ModelError, RecipeError, RunError, SilentError, TrainingError
from basereward.inference.scorer import load_scorer
from basereward.model.policy import load_policy
from basereward.recipe import find_faults, load_recipe, recipe_yaml
from basereward.recipe.trust import trusting
from basereward.rl.rows import JudgeRows, LabelledPair
from basereward.rl.running.checkpoint import read_last
from basereward.rl.running.cost import rollout_cost
from basereward.rl.train import train
from basereward.runs.listing import listed_runs
from basereward.runs.run_folder import RunFolder, find, list_runs
from basereward.sweeps.cell_worker import train_task
from basereward.sweeps.resume import resume
from tests.helpers.killed_process import Moment, train_in_process
from tests.helpers.support import group

REWARD = "{_target_: tests.helpers.letter_reward.LetterReward}"
TINY = (
    *("data.sources.numbers=null", "data.sources.digits.size=16", "data.sources.digits.copies=1"),
    *("data.sources.digits.val_size=4", "data.sources.digits.test_size=4"),
    *("data.sources.digits.answers=2", "data.sources.digits.true_answers=1"),
    *("model.backbone.make.hidden_size=64", "model.backbone.make.layers=2", "model.backbone.make.vision_layers=1"),
    *("batch.groups=2", "batch.groups_per_forward=2", "trainer.steps=4", "trainer.validations=2"),
)
SETTINGS = "rollouts_per_prompt: 4, max_tokens: 48, held_out: 4"
POLICY = (*TINY, f"objective={{_target_: stable_reinforce, {SETTINGS}, reward: {REWARD}}}")
JUDGE = (
    *TINY,
    "model.head={_target_: generative, thinking: true, prompt: pairwise_brief, max_tokens: 48}",
    f"objective={{_target_: grpo, {SETTINGS}}}",
)
TIMED = ("time/", "mem/", "system/", "train/step_s", "train/profiling")


def variables(folder: Path) -> dict[str, str]:
    """The variables of runs, cache and store in a folder."""
    return {
        "BASEREWARD_RUNS": str(folder / "runs"),
        "BASEREWARD_CACHE": str(folder / "cache"),
        "BASEREWARD_EXPERIMENTS": str(Path(__file__).parents[2] / "experiments"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Path]:
    """A folder with the runs of this module, which are read by several tests."""
    folder = tmp_path_factory.mktemp("policy_runs")
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables(folder).items():
            patch.setenv(name, value)
        yield folder


@pytest.fixture
def folders(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders of `shared` in a test."""
    for name, value in variables(shared).items():
        monkeypatch.setenv(name, value)
    return shared


def trained(overrides: tuple[str, ...], **options: Any) -> dict[str, Any]:
    """Train a recipe in this process, which may import the reward of the tests."""
    with trusting(True):
        return train(load_recipe("basereward", overrides=overrides), **options)


@pytest.fixture(scope="module")
def judge(shared: Path) -> dict[str, Any]:
    """The result of a run that trains a judge."""
    return trained(JUDGE)


@pytest.fixture(scope="module")
def policy(shared: Path) -> dict[str, Any]:
    """The result of a run that trains a policy without interruption."""
    return trained(POLICY)


def recorded(run: RunFolder) -> dict[tuple[str, int], float]:
    """All metrics of a run by name and step, without times."""
    values: dict[tuple[str, int], float] = {}
    for line in run.journal.file.read_text().splitlines():
        record = json.loads(line)
        if record["kind"] != "metrics":
            continue
        for name, value in record["values"].items():
            if not name.startswith(TIMED):
                assert (name, record["step"]) not in values
                values[name, record["step"]] = value
    return values


def test_judge_is_saved_as_a_judge(judge: dict[str, Any], folders: Path) -> None:
    """`load` opens it; what it writes is what the policy of its chat checkpoint writes, and its weights are those."""
    run = find(judge["run_id"])
    assert run.state == "finished"
    assert set(judge) == {"run_id", "model", "metrics", "pair_s", "seconds", "skipped"}
    assert {"test/pair_accuracy", "test/digits/order_consistency", "test/accuracy"} <= set(judge["metrics"])
    scorer = load_scorer(run.model)
    scores = scorer.score("Which digit?", ["It is a seven.", "4"])
    assert len(scores) == 2
    again = load_policy(run.model)
    weights = again.model.state_dict()
    for name, weight in scorer.model.backbone.transformer.state_dict().items():
        assert torch.equal(weight, weights[f"model.{name}"])
    assert not list(run.checkpoints.glob("checkpoint-*/../*.tmp"))
    assert len(list(run.checkpoints.glob("checkpoint-*"))) == 1


def test_metrics_of_every_step_and_validation_are_recorded(judge: dict[str, Any], folders: Path) -> None:
    """Steps 1 to 4 have TRL's metrics, and steps 0, 2 and 4 those of held-out rows."""
    values = recorded(find(judge["run_id"]))
    for name in ("train/loss", "train/lr", "train/reward", "train/judge/accuracy", "train/completions/mean_length"):
        assert [step for key, step in values if key == name] == [1, 2, 3, 4]
    assert [step for key, step in values if key == "val/pair_accuracy"] == [0, 2, 4]
    assert ("train/best_step", 4) in values
    (row,) = [row for row in listed_runs() if row.name == judge["run_id"]]
    assert (row.state, row.progress, row.score) == ("finished", "4 of 4", judge["metrics"]["test/pair_accuracy"])


def test_run_that_is_killed_and_resumed_equals_one_that_never_stopped(policy: dict[str, Any], folders: Path) -> None:
    """SIGKILL when a checkpoint is written and not yet named: weights, metrics and rollouts have the same bits."""
    before = {run.run_id for run in list_runs()}
    kill = Moment("basereward.rl.running.run_trainer:write_last", 2)
    overrides = (*POLICY, "trainer.checkpoint_every=1", "tracking.experiment=killed")
    assert train_in_process("basereward", overrides, kill=kill, trust=True) == -kill.signal
    (run,) = [run for run in list_runs() if run.run_id not in before]
    assert (run.state, read_last(run).step) == ("killed", 1)
    assert trained(overrides, resume=run.run_id)["metrics"] == policy["metrics"]
    whole = find(policy["run_id"])
    assert recorded(run) == recorded(whole)
    for name, weight in load_file(whole.model / "model.safetensors").items():
        assert torch.equal(load_file(run.model / "model.safetensors")[name], weight)
    assert len({value for (name, _), value in recorded(whole).items() if name == "train/grad_norm"}) > 1


def test_policy_is_saved_in_the_format_of_the_hub(policy: dict[str, Any], folders: Path) -> None:
    """Another run starts from it, and transformers' class of the start opens it."""
    model = load_policy(find(policy["run_id"]).model).model
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    result = trained((*POLICY, f"model.start={policy['run_id']}", "trainer.steps=1", "trainer.validations=1"))
    before, after = recorded(find(policy["run_id"])), recorded(find(result["run_id"]))
    assert after["val/reward", 0] == before["val/reward", int(before["train/best_step", 4])]


def test_judge_of_a_run_is_the_start_of_another(judge: dict[str, Any], folders: Path) -> None:
    """Its chat checkpoint has the judge's weights; a scalar run is no start."""
    start = find(judge["run_id"])
    weights = load_policy(start.model).model.state_dict()
    saved = load_file(start.model / "backbone" / "model.safetensors")
    assert torch.equal(
        weights["model.language_model.layers.0.mlp.up_proj.weight"], saved["language_model.layers.0.mlp.up_proj.weight"]
    )


def test_two_processes_train_one_policy(folders: Path) -> None:
    """Two gloo processes on the CPU: the run finishes, with rollouts of both in every step."""
    assert (
        train_in_process("basereward", (*JUDGE, "trainer.devices=2", "trainer.steps=1", "trainer.validations=1")) == 0
    )
    run = list_runs()[0]
    assert run.state == "finished"
    assert recorded(run)["train/completions/mean_length", 1] > 1


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("trainer.strategy=fsdp2", "trainer.strategy"),
        ("model.backbone.quantization=nf4", "model.backbone.quantization"),
        ("batch.tokens=512", "batch.tokens"),
        ("probe=true", "probe"),
        ("objective.filtre=code", "objective.filtre"),
        ("objective.rollouts_per_prompt=1", "objective.rollouts_per_prompt"),
        ("objective.rollouts=tree", "objective.rollouts"),
        ("objective.vllm_mode=server", "objective.vllm_mode"),
        ("trainer.monitor=val/mean_margin", "trainer.monitor"),
        ("trainer.monitor=val/exact_match", "trainer.monitor"),
    ],
)
def test_settings_that_do_not_go_together_are_faults(override: str, key: str, folders: Path) -> None:
    """They are named before anything is imported or loaded."""
    _, faults = find_faults("basereward", overrides=[*JUDGE, override])
    assert key in [fault.key for fault in faults]


@pytest.mark.parametrize(("reward", "is_measured"), [("judge_sum", False), ("rule", True), ("hybrid", True)])
def test_monitor_is_a_measure_of_the_reward(reward: str, is_measured: bool, folders: Path) -> None:
    """A single greedy answer has no sum over pairs, so that `judge_sum` does not measure `reward`."""
    node = f"objective={{_target_: grpo, reward: {{_target_: {reward}}}}}"
    for monitor, allowed in (("val/reward", is_measured), ("val/exact_match", True), ("val/pair_accuracy", True)):
        _, faults = find_faults("basereward", overrides=[node, f"trainer.monitor={monitor}"])
        assert ("trainer.monitor" not in [fault.key for fault in faults]) is allowed


def test_start_without_reinforcement_is_a_fault(folders: Path) -> None:
    """Only reinforcement learning starts from a trained model."""
    _, faults = find_faults("basereward", overrides=["model.start=a-run"])
    assert [fault.key for fault in faults] == ["model.start"]


def test_scalar_head_cannot_be_reinforced_as_a_judge(folders: Path) -> None:
    """The error says which head can."""
    with pytest.raises(ModelError, match="generative"):
        trained((*TINY, "objective={_target_: grpo}"))
    with pytest.raises(RunError):
        trained((*JUDGE, "model.start=no-such-run"))


def test_missing_package_is_named_before_the_run(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra that brings it is named, and no run exists."""
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "trl" else find_spec(name, *rest)
    )
    count = len(list_runs())
    with pytest.raises(RecipeError, match=r"basereward\[rl\]"):
        trained(JUDGE)
    assert len(list_runs()) == count


@pytest.mark.parametrize(
    ("overrides", "metric", "message"),
    [
        (
            ("objective.max_tokens=2", "objective.reward={_target_: tests.helpers.letter_reward.EqualReward}"),
            "train/completions/clipped_ratio",
            "max_tokens",
        ),
        (
            ("objective.reward={_target_: tests.helpers.letter_reward.NoReward}",),
            "train/rewards/unscored",
            "finite reward",
        ),
    ],
)
def test_rollouts_that_teach_nothing_stop_the_run_after_a_checkpoint(
    overrides: tuple[str, ...], metric: str, message: str, folders: Path
) -> None:
    """Rollouts that are all truncated with equal rewards, or have no reward, stop the run in the third generation."""
    with pytest.raises(TrainingError, match=message):
        trained((*POLICY, *overrides))
    run = list_runs()[0]
    assert (run.state, recorded(run)[metric, 1]) == ("failed", 1.0)
    assert json.loads((run.checkpoints / "last.ckpt").read_text())["step"] == 2


def test_adapters_are_trained_and_saved_merged(judge: dict[str, Any], folders: Path) -> None:
    """With a penalty, whose reference is the model without its adapters; other weights stay those of the start."""
    lora = ("model.lora={rank: 2}", "objective.beta=0.1", f"model.start={judge['run_id']}", "optimizer.lr=0.1")
    run = find(trained((*POLICY, *lora, "trainer.steps=2", "trainer.validations=1"))["run_id"])
    before = load_policy(find(judge["run_id"]).model).model.state_dict()
    after = load_policy(run.model).model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    best = recorded(run)["train/best_step", 2]
    assert recorded(run)["train/kl/reference", 2] != 0
    assert bool(changed) is bool(best)
    assert all(".language_model.layers." in name for name in changed)
    assert (run.checkpoints / "checkpoint-2" / "trained.safetensors").stat().st_size < 200_000


def test_cell_of_a_sweep_is_trained_once(folders: Path) -> None:
    """The worker of a sweep trains it, and finds it finished at the next call."""
    recipe = load_recipe("basereward", overrides=[*JUDGE, "trainer.steps=1", "trainer.validations=1", "seeds.data=5"])
    task = json.dumps({"recipe": recipe_yaml(recipe), "title": "cell", "axes": {"seed": "5"}, "label": "cell"})
    result = train_task(task, parent="a-sweep")
    assert train_task(task, parent="a-sweep")["run_id"] == result["run_id"]
    assert find(result["run_id"]).axes == {"seed": "5"}


def test_cost_counts_rollouts_and_the_reference_model(folders: Path) -> None:
    """Of 8 rollouts of 48 tokens: generation and loss; with a penalty also old and reference log-probabilities, and the
    memory of a second model."""
    plain, penalised = (
        rollout_cost(load_recipe("basereward", overrides=[*JUDGE, f"objective.beta={beta}"]), gpus=["h100"])
        for beta in (0.0, 0.1)
    )
    parts, more = plain["rollouts"]["flops"], penalised["rollouts"]["flops"]
    assert (plain["rollouts"]["step"], plain["steps"], parts["old"], parts["reference"]) == (8, 4, 0, 0)
    assert more["old"] == more["reference"] == more["generation"] == parts["generation"] > 0
    # A backward pass is two forward passes, without the gradient of the pixels.
    assert 2.5 < parts["loss"] / parts["generation"] <= 3.0
    assert plain["flops"]["step"]["total"] == sum(parts.values())
    assert penalised["bytes"]["weights"] == 2 * plain["bytes"]["weights"]


def test_policy_writes_what_its_judge_writes(judge: dict[str, Any], folders: Path) -> None:
    """The greedy text of the chat checkpoint equals that of the engine that scores, about a picture."""
    scorer = load_scorer(find(judge["run_id"]).model)
    model: Any = scorer.model
    asked = group(responses=("It is a seven.", "4"), images=1)
    batch = collate([scorer.encode(asked)], layout="tree", pad_id=scorer.encoder.pad_id)
    with torch.no_grad():
        expected = model.generator.generate(batch, model.head.sampling)[0][0].tolist()
    policy = load_policy(find(judge["run_id"]).model)
    rows = JudgeRows([asked], prompt=model.head.branch_template.judge_prompt, pairs=[LabelledPair(0, 0, 1, 1)])
    messages = prepare_multimodal_messages(rows.row(0)["prompt"], images=rows.row(0)["images"])
    inputs = policy.processor.apply_chat_template(
        [messages], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    written = policy.model.generate(**inputs, max_new_tokens=48, do_sample=False)[0, inputs["input_ids"].size(1) :]
    assert written.tolist()[: len(expected)] == expected


def test_reward_that_dies_loses_nothing(policy: dict[str, Any], folders: Path) -> None:
    """The run stops with a checkpoint of the last step, and resumed it ends with the bits of one that never stopped."""
    from tests.helpers.letter_reward import LetterReward

    calls = 0
    original = LetterReward.group_rewards

    def dying(self: LetterReward, prompts: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:  # a validation of 4 groups, and the steps after it
            raise SilentError("the reward model does not answer")
        return original(self, prompts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LetterReward, "group_rewards", dying)
        with pytest.raises(SilentError):
            trained((*POLICY, "tracking.experiment=dying"))
    run = list_runs()[0]
    assert run.state == "failed"
    assert (run.checkpoints / "last.ckpt").exists()
    with trusting(True):
        assert resume(run.run_id)["metrics"] == policy["metrics"]
