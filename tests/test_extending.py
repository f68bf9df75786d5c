"""Test that the files of a new part in a user's folder are enough to use it, without a change in the package.

Each test writes the files that `docs/how-to/extend.md` describes, runs the command that uses them, and checks the
effect of the part. All tests train a text-only model of two layers for two steps.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from basereward import load
from basereward.cli import main
from basereward.errors import BaseRewardError
from basereward.model.families import registry
from basereward.model.tiny_models.tiny_qwen2_5_vl import tiny_qwen2_5_vl
from basereward.runs.run_folder import RunFolder, find, list_runs
from tests.helpers.support import picture, write_rows

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PROFILE = str(ROOT / "tests" / "small.yaml")
FEW = ("trainer.steps=2", "trainer.validations=1")

HEAD = '''
"""A head whose hidden layer has a gate."""

from typing import Annotated

from annotated_types import Interval
from torch import Tensor, nn


class GatedHead(nn.Module):
    def __init__(self, hidden_size: int, *, width: Annotated[int, Interval(ge=1, le=64)] = 8) -> None:
        super().__init__()
        self.value = nn.Linear(hidden_size, width)
        self.gate = nn.Linear(hidden_size, width)
        self.score = nn.Linear(width, 1)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.score(self.value(pooled) * self.gate(pooled).sigmoid()).squeeze(-1)
'''
HEAD_EXPERIMENT = """\
# Does a gate help?
# Run it: basereward train gated.yaml --trust
include: basereward
model: {head: {_target_: own_heads.GatedHead, width: 16}}
"""
LOSS = '''
"""The hinge loss of ranking support vector machines, with a penalty on large scores."""

from torch import Tensor
from torch.nn.functional import relu

from basereward.data.batching.tree_batch import TreeBatch
from basereward.model.losses.contracts import PreferenceLoss


class Hinge(PreferenceLoss):
    unit = "preference"

    def __init__(self, *, margin: float = 1.0, penalty: float = 0.01) -> None:
        super().__init__()
        self.margin = margin
        self.penalty = penalty

    def forward(self, scores: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        winner, loser = scores[batch.preferences.winner], scores[batch.preferences.loser]
        hinge = relu(self.margin - (winner - loser)).mean()
        penalty = self.penalty * (winner.square() + loser.square()).mean()
        return hinge + penalty, {"hinge": hinge, "penalty": penalty}
'''
LOSS_EXPERIMENT = """\
# Is a hinge as good as a logistic loss?
# Run it: basereward train hinge.yaml --trust
include: basereward
loss: {_target_: own_losses.Hinge, margin: 0.5}
"""
OBJECTIVE = '''
"""Ranking at a temperature."""

from basereward.data.batching.tree_batch import TreeBatch
from basereward.model.losses.contracts import PreferenceLoss
from basereward.model.reward_model import RewardModel
from basereward.training.objectives.contracts import LossAndParts, Objective


class TemperedRanking(Objective):
    def __init__(self, loss: PreferenceLoss, *, temperature: float = 1.0) -> None:
        super().__init__(loss)
        self.temperature = temperature

    def forward(self, model: RewardModel, batch: TreeBatch) -> LossAndParts:
        return self.ranking_loss([model(batch) / self.temperature], batch)
'''
OBJECTIVE_EXPERIMENT = """\
# What does a temperature do?
# Run it: basereward train tempered.yaml --trust
include: basereward
objective: {_target_: own_objectives.TemperedRanking, temperature: 1e6}
"""
SOURCE = '''
"""Questions whose right answer is the longer word."""

from collections.abc import Sequence

from basereward.data.schema.group import Group, Part, RejectedRow, Split, Turn, rank_preferences

WORDS = ("ant", "horse", "elephant", "rhinoceros")


class LongerWord:
    def __init__(self, name: str, *, size: int = 12) -> None:
        self.name = name
        self.size = size

    def groups(self, split: Split) -> Sequence[Group]:
        prompts = [f"Question {number} ({split}): which word is longer?" for number in range(self.size)]
        return [self._group(f"{split}/{number}", prompt) for number, prompt in enumerate(prompts)]

    def rejected(self, split: Split) -> list[RejectedRow]:
        return []

    def _group(self, name: str, prompt: str) -> Group:
        return Group(
            id=f"{self.name}/{name}",
            source=self.name,
            prompt=(Turn("user", (Part(prompt),)),),
            responses=WORDS[::-1],
            preferences=rank_preferences(range(len(WORDS))),
        )
'''
SOURCE_EXPERIMENT = """\
# Can a model learn which word is longer?
# Run it: basereward train longer.yaml --trust
include: basereward
data:
  sources: {numbers: null, longer: {_target_: own_sources.LongerWord, size: 16}}
"""
BENCHMARK = """\
# Eight pairs of our own, counted as RewardBench (arXiv 2403.13787) counts its rows.
# Run it: basereward eval MODEL --benchmark own_benchmark.yaml
_target_: annotated
version: "1"
path: own_rows.jsonl
split: train
protocol: {_target_: rewardbench}
expected_items: 8
"""
FAMILY = '''
"""NewVL: the architecture of Qwen2.5-VL under another name."""

from transformers import AutoConfig, AutoModel, Qwen2_5_VLConfig, Qwen2_5_VLModel

from basereward.model.families.supported.qwen_vl import QwenVL


class NewVLConfig(Qwen2_5_VLConfig):
    model_type = "new_vl"


class NewVLModel(Qwen2_5_VLModel):
    config_class = NewVLConfig


AutoConfig.register("new_vl", NewVLConfig)
AutoModel.register(NewVLConfig, NewVLModel)


class NewVL(QwenVL):
    model_types = ("new_vl",)
    liger_types = ()


FAMILY = NewVL()
'''
FAMILY_EXPERIMENT = """\
# The paper's recipe on NewVL.
# Run it: basereward train new_vl.yaml --trust
include: basereward
model: {backbone: {make: null, path: new_vl_checkpoint}}
data: {sources: {digits: {include: sources/digits, size: 8, copies: 1, val_size: 4, test_size: 4}}}
"""
LAUNCHER = '''
"""A launcher that trains in the process of the sweep, and writes down what it was called with."""

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from basereward.sweeps.cell_worker import train_task
from basereward.sweeps.launcher import CellJob, Resources


class InThisProcess:
    retries = 0
    runs_here = True
    spans_machines = False
    gpu_memory = None

    def prepare(self, needed: Sequence[Resources]) -> None: ...

    def has_room(self, resources: Resources) -> bool:
        return True

    def submit(self, job: CellJob, resources: Resources) -> Future:
        with Path("launched.txt").open("a") as launched:
            launched.write(f"{job.cell.name}\\n")
        future = Future()
        future.set_result(train_task(job.task, parent=job.parent, resume=job.resume))
        return future

    def cancel(self) -> None: ...

    def close(self) -> None: ...
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Return the user's folder with own modules, experiments, rows and runs."""
    folder = tmp_path_factory.mktemp("own")
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture(autouse=True)
def _in_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
    monkeypatch.setenv("BASEREWARD_RUNS", str(folder / "runs"))
    monkeypatch.setenv("BASEREWARD_CACHE", str(folder / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    # `--trust` appends the working directory to the path of this process.
    monkeypatch.setattr(sys, "path", list(sys.path))
    # With trust, the families of the folder are imported; no other file's tests may see them.
    monkeypatch.setattr(registry, "_user_families", {})
    yield
    for name in [name for name in sys.modules if name.startswith(("own_", registry.USER_PACKAGE))]:
        del sys.modules[name]


Command = Callable[..., dict[str, Any]]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """Return a function that runs `basereward` and returns its JSON output."""

    def run(*arguments: str) -> dict[str, Any]:
        status = main([*arguments, "--json"])
        printed = capfd.readouterr()
        assert status == 0, printed.err
        result: dict[str, Any] = json.loads(printed.out)
        return result

    return run


@pytest.fixture
def trained(command: Command) -> Callable[..., RunFolder]:
    """Return a function that trains an experiment of the user for two steps and returns its run."""

    def train(experiment: str, *overrides: str) -> RunFolder:
        result = command("train", experiment, "--profile", PROFILE, "--trust", *FEW, *overrides)
        return find(result["run_id"])

    return train


def test_head_from_a_python_file_and_a_yaml_file(
    folder: Path, trained: Callable[..., RunFolder], capfd: pytest.CaptureFixture[str]
) -> None:
    """The head is trained, saved and loaded. Its arguments are checked by their type hints, and it needs trust."""
    (folder / "own_heads.py").write_text(HEAD)
    (folder / "gated.yaml").write_text(HEAD_EXPERIMENT)
    assert main(["check", "gated.yaml", "--profile", PROFILE]) == 2
    assert "--trust" in "".join(capfd.readouterr())
    assert main(["check", "gated.yaml", "--profile", PROFILE, "--trust", "model.head.width=65"]) == 2
    assert "model.head.width" in "".join(capfd.readouterr())
    run = trained("gated.yaml")
    weights = load_file(run.model / "head.safetensors")
    assert weights["value.weight"].shape == (16, 64)
    assert len(load(run.model, trust=True).score("Which is larger, 4 or 7?", ["7", "4"])) == 2
    with pytest.raises(BaseRewardError, match=r"own_heads\.GatedHead"):
        load(run.model)


def test_loss_from_a_python_file_and_a_yaml_file(folder: Path, trained: Callable[..., RunFolder]) -> None:
    """Its named parts are logged at each step and add up to the loss; with small margins the hinge is near its own
    margin."""
    (folder / "own_losses.py").write_text(LOSS)
    (folder / "hinge.yaml").write_text(LOSS_EXPERIMENT)
    values = [record.get("values", {}) for record, _ in trained("hinge.yaml").journal.read(0)]
    logged = [value for value in values if "train/hinge" in value]
    assert len(logged) == 2
    assert logged[0]["train/hinge"] + logged[0]["train/penalty"] == pytest.approx(logged[0]["train/loss"])
    assert 0.1 < logged[0]["train/hinge"] < 1.5


def test_objective_from_a_python_file_and_a_yaml_file(folder: Path, trained: Callable[..., RunFolder]) -> None:
    """It replaces the head's objective: at an extreme temperature all margins are 0, and the loss of a step is log
    2."""
    (folder / "own_objectives.py").write_text(OBJECTIVE)
    (folder / "tempered.yaml").write_text(OBJECTIVE_EXPERIMENT)
    values = [record.get("values", {}) for record, _ in trained("tempered.yaml").journal.read(0)]
    losses = [value["train/loss"] for value in values if "train/loss" in value]
    assert losses == pytest.approx([math.log(2)] * 2, abs=1e-5)


def test_source_from_a_python_file_and_a_yaml_file(folder: Path, trained: Callable[..., RunFolder]) -> None:
    """Its groups are trained on, and its test groups have scores for all responses."""
    (folder / "own_sources.py").write_text(SOURCE)
    (folder / "longer.yaml").write_text(SOURCE_EXPERIMENT)
    run = trained("longer.yaml")
    rows = [json.loads(line) for line in (run.scores / "test.jsonl").read_text().splitlines()]
    groups = [row for row in rows if row.get("source") == "longer"]
    assert len(groups) == 16
    assert {len(group["scores"]) for group in groups} == {4}
    assert (run.result() or {})["metrics"]["test/longer/pairs"] == 16 * 6


def test_benchmark_from_a_yaml_file_and_rows(folder: Path, command: Command) -> None:
    """A shipped protocol measures it, and each response has the score of `load(MODEL).score`."""
    (folder / "own_benchmark.yaml").write_text(BENCHMARK)
    rows = [
        {
            "prompt": f"Which is larger, {number} or {number + 1}?",
            "chosen": f"It is {number + 1}.",
            "rejected": f"{number}",
            "subset": "alpacaeval-easy",
        }
        for number in range(8)
    ]
    write_rows(folder / "own_rows.jsonl", rows)
    model = str(newest_run().model)
    result = command("eval", model, "--benchmark", "own_benchmark.yaml", "--trust")
    overall = result["own_benchmark"]["subsets"]["overall"]
    scorer = load(model, trust=True)
    correct = 0
    for row in rows:
        chosen, rejected = scorer.score(row["prompt"], [row["chosen"], row["rejected"]])
        correct += chosen > rejected
    assert (overall["numerator"], overall["denominator"]) == (correct, 8)


def newest_run() -> RunFolder:
    """Return a finished run of an earlier test, since a benchmark needs any trained model, or train one."""
    if not any(run.state == "finished" for run in list_runs()):
        assert main(["train", "basereward", "--profile", PROFILE, *FEW]) == 0
    return next(run for run in list_runs() if run.state == "finished")


def test_backbone_family_from_a_python_file(
    folder: Path, trained: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the family a checkpoint of a type that transformers does not know is trained on images; without trust it is
    refused.

    The part names of the family apply too: its vision tower is frozen, and its language model is trained.
    """
    (folder / "basereward_families").mkdir()
    (folder / "basereward_families" / "new_vl.py").write_text(FAMILY)
    (folder / "new_vl.yaml").write_text(FAMILY_EXPERIMENT)
    checkpoint = folder / "new_vl_checkpoint"
    write_new_vl(checkpoint)
    assert main(["train", "new_vl.yaml", "--profile", PROFILE, *FEW]) == 2
    run = trained("new_vl.yaml", "model.backbone.freeze=[vision]")
    assert "new_vl" in registry.vision_types()
    before = load_file(checkpoint / "model.safetensors")
    after = {}
    for file in run.model.rglob("*.safetensors"):
        after |= load_file(file)
    changed = {name for name, weight in before.items() if name in after and not weight.equal(after[name])}
    assert any("language_model" in name for name in changed)
    assert not any("visual.blocks" in name for name in changed)
    scorer = load(run.model, trust=True)
    assert len(scorer.score("Which digit?", ["7", "4"], images=[picture(0)])) == 2


def write_new_vl(checkpoint: Path) -> None:
    """Write a checkpoint of the new type. transformers renames the weights of a Qwen2.5-VL by its type when it loads
    them; weights of the new type have the names of the model itself."""
    tiny_qwen2_5_vl(checkpoint, hidden_size=64, layers=2, vision_layers=2)
    weights = AutoModel.from_pretrained(checkpoint).state_dict()
    save_file(
        {name: weight.clone() for name, weight in weights.items()}, checkpoint / "model.safetensors", {"format": "pt"}
    )
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"model_type": "new_vl"}))


def test_launcher_from_a_python_file(folder: Path, command: Command) -> None:
    """`--on` takes its dotted path, the cells run through it, and the next sweep skips them."""
    (folder / "own_launcher.py").write_text(LAUNCHER)
    arguments = ("sweep", "basereward", "--profile", PROFILE, "--trust", "--on", "own_launcher.InThisProcess", *FEW)
    (cell,) = command(*arguments, "seeds=[3]")["cells"]
    assert (cell["name"], cell["status"]) == ("seed=3", "finished")
    assert (folder / "launched.txt").read_text().splitlines() == ["seed=3"]
    assert find(cell["run_id"]).state == "finished"
    (skipped,) = command(*arguments, "seeds=[3]")["cells"]
    assert skipped["status"] == "skipped"
    assert (folder / "launched.txt").read_text().splitlines() == ["seed=3"]
