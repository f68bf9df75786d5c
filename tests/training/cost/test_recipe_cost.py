"""Test `basereward check --cost`: the cost of every cell, computed without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main
from basereward.model.cost.flops import Counter
from basereward.model.cost.memory import PassTokens
from basereward.model.cost.sequence_shapes import batch_shapes
from basereward.recipe import load_recipe
from basereward.training.build import build
from basereward.training.cost.gpu_specs import GPUS
from basereward.training.cost.recipe_cost import recipe_cost
from basereward.training.cost.workload import workload
from tests.helpers.support import SMALL, only, pair_rows, write_rows

ROOT = Path(__file__).parents[3]
STREAMED = "data.streaming={buffer: 5, held_out: 5}"


@pytest.fixture(autouse=True)
def shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the project's experiments from any working folder."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))


def costs_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    """Return the cost of each cell from the JSON output."""
    assert main(["check", *arguments, "--cost", "--json", *SMALL]) == 0
    cells: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["cells"]
    return [cell["cost"] for cell in cells]


@pytest.mark.parametrize("layout", ["tree", "plain"])
def test_tokens_and_flops_equal_those_of_the_batches(layout: str, tmp_path: Path) -> None:
    """The sources are small enough that the cost looks at every group of an epoch, as the run does."""
    changes = [
        "trainer.epochs=1",
        "trainer.steps=null",
        "batch.groups=4",
        "model.lora.rank=2",
        f"batch.layout={layout}",
    ]
    rows = write_rows(tmp_path / "pairs.jsonl", pair_rows(28))
    overrides = [*only(rows), "data.sources.mine.val=0", "data.sources.mine.test=0"]
    recipe = load_recipe("basereward", overrides=[*overrides, *changes])
    module, data, _ = build(recipe)
    shapes = [batch_shapes(batch) for stage in range(2) for batch in data.stage_loader(stage)]
    load = workload(recipe)
    cost = recipe_cost(recipe, load)
    assert cost["steps"] == 7
    assert cost["tokens"]["run"] == sum(shape.tokens for batch in shapes for shape in batch)
    assert cost["tokens"]["step"] == pytest.approx(cost["tokens"]["run"] / 7, abs=0.5)
    counter = Counter(module.model)
    total_flops = sum(counter(batch).total for batch in shapes)
    assert cost["flops"]["run"]["useful"] == pytest.approx(total_flops, rel=1e-6)
    largest = max(sum(shape.tokens for shape in batch) for batch in shapes)
    assert load.largest.tokens == pytest.approx(largest, rel=0 if layout == "tree" else 0.1)


def test_cost_of_a_mixture_is_within_one_percent() -> None:
    """The estimate samples groups of every source over the range of their lengths."""
    recipe = load_recipe("basereward", overrides=[*SMALL, "trainer.steps=8", "data.sources.numbers.size=200"])
    module, data, _ = build(recipe)
    counter = Counter(module.model)
    groups = [data.parts["train"][place] for place in data.parts["train"].places]
    assert len(groups) > 200
    load = workload(recipe)
    cost = recipe_cost(recipe, load)["flops"]["step"]
    batches = [data.collate([group]) for group in groups]
    expected = sum(counter(batch_shapes(batch)).total for batch in batches) / len(groups) * 8
    assert cost["total"] == pytest.approx(expected, rel=0.01)
    assert cost["vision"] > 0


def test_hours_are_flops_over_utilised_peak(capsys: pytest.CaptureFixture[str]) -> None:
    """The default utilisation is 45 %, validations and test are included, and float32 is slower."""
    (cost,) = costs_of(capsys, "basereward", "trainer.precision=bf16-mixed")
    run = cost["flops"]["run"]
    assert run["all"] == run["useful"] + run["recomputed"] + run["evaluation"]
    assert run["useful"] == 6 * cost["flops"]["step"]["total"]
    assert set(cost["gpus"]) == set(GPUS)
    assert cost["gpus"]["h100"]["hours"] == pytest.approx(run["all"] / (0.45 * 989e12) / 3600)
    (fast,) = costs_of(capsys, "basereward", "trainer.precision=bf16-mixed", "--gpu", "a100", "--utilisation", "0.9")
    assert list(fast["gpus"]) == ["a100"]
    assert fast["gpus"]["a100"]["hours"] == pytest.approx(cost["gpus"]["a100"]["hours"] / 2)
    (slow,) = costs_of(capsys, "basereward")
    assert slow["gpus"]["h100"]["hours"] == pytest.approx(cost["gpus"]["h100"]["hours"] * 989 / 67)


def test_gradient_checkpointing_adds_hours_and_saves_memory(capsys: pytest.CaptureFixture[str]) -> None:
    """The MFU falls by the share of recomputed work."""
    (plain,) = costs_of(capsys, "basereward")
    (checkpointed,) = costs_of(capsys, "basereward", "model.backbone.gradient_checkpointing=true")
    step = checkpointed["flops"]["step"]
    assert step["total"] == plain["flops"]["step"]["total"]
    assert checkpointed["gpus"]["h100"]["mfu"] == pytest.approx(
        0.45 * step["total"] / (step["total"] + step["recomputed"])
    )
    assert checkpointed["gpus"]["h100"]["hours"] > plain["gpus"]["h100"]["hours"]
    assert checkpointed["bytes"]["activations"] < plain["bytes"]["activations"]


def test_too_large_pass_fits_no_gpu() -> None:
    """The pass has a hundred million tokens."""
    recipe = load_recipe("basereward", overrides=SMALL)
    load = workload(recipe)
    huge = recipe_cost(recipe, type(load)(**{**vars(load), "largest": PassTokens(10**8, 10, 10)}))
    assert not any(gpu["fits"] for gpu in huge["gpus"].values())
    assert all(gpu["fits"] for gpu in recipe_cost(recipe, load)["gpus"].values())
    parts = {name: size for name, size in huge["bytes"].items() if name != "peak"}
    assert huge["bytes"]["peak"] == sum(parts.values())


def test_every_cell_of_a_sweep_has_its_cost(capsys: pytest.CaptureFixture[str]) -> None:
    """A deeper head needs more FLOPs, and the text output has one row per cell."""
    cells = costs_of(capsys, "head_depth")
    assert len(cells) == 7
    assert cells[-1]["flops"]["step"]["head"] > cells[0]["flops"]["step"]["head"] > 0
    assert main(["check", "head_depth", "--cost", "--gpu", "rtx4090", *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "rtx4090 hours" in printed
    assert "h100" not in printed
    assert printed.count("head=5_silu") == 3
    assert "45% of the GPU's peak" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cost", "--gpu", "h10"], "unknown GPU 'h10'; did you mean 'h100'?"),
        (["--gpu", "h100"], "have no effect without --cost"),
        (["--cost", "--utilisation", "45"], "a share above 0 and at most 1"),
        (["--cost", "data.mixture.weights={digits: 1, numbers: 1}", STREAMED], "Remove data.streaming"),
    ],
)
def test_invalid_cost_options_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 without a traceback."""
    assert main(["check", "basereward", *SMALL, *arguments]) == 2
    printed = capsys.readouterr()
    # Faults of the recipe are the result of the command, those of its options are errors.
    assert message in printed.out + printed.err


def test_missing_backbone_has_no_cost(capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe has a fault, and no table of costs is printed."""
    assert main(["check", "basereward", "--cost", "model.backbone={path: /no/such/folder, make: null}"]) == 2
    printed = capsys.readouterr().out
    assert "model.backbone.path" in printed
    assert "/no/such/folder" in printed
    assert "GPU's peak" not in printed


def test_recipe_with_faults_has_no_cost(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is read for an invalid recipe."""
    assert main(["check", "basereward", "--cost", "--json", "optimizer.lrr=1"]) == 2
    result = json.loads(capsys.readouterr().out)
    assert result["faults"]
    assert all("cost" not in cell for cell in result["cells"])
