"""Test what `train` says before it begins."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from basereward.recipe import load_recipe
from basereward.training.build import PreparedRun, prepare_run
from basereward.training.cost.run_description import describe_run

ROOT = Path(__file__).resolve().parents[3]


def described(*overrides: str) -> tuple[list[str], PreparedRun]:
    """Return the lines of a small run, and the run."""
    recipe = load_recipe("basereward", profile=str(ROOT / "tests" / "small.yaml"), overrides=overrides)
    prepared = prepare_run(recipe)
    return list(describe_run(recipe, prepared)), prepared


def counts(line: str) -> list[int]:
    """Return the numbers of parameters in a line."""
    return [int(number.replace(",", "")) for number in re.findall(r"\(([\d,]+) parameters\)", line)]


def test_parts_rows_and_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parameters of all parts add up to those of the model; rows, steps and epochs are those of the plan."""
    monkeypatch.setattr("basereward.training.cost.run_description.format_large", "{:,}".format)
    lines, prepared = described("model.backbone.freeze=[vision]")
    trained, frozen, source, plan = lines[:4]
    parameters = list(prepared.module.model.parameters())
    assert sum(counts(trained)) == sum(p.numel() for p in parameters if p.requires_grad)
    assert sum(counts(frozen)) == sum(p.numel() for p in parameters if not p.requires_grad)
    assert "vision" in frozen
    assert "head" in trained
    assert source == "source numbers: 40 train, 12 val, 12 test"
    # 6 steps of 8 groups read 48 groups of 40.
    assert plan == "plan: 6 steps of 8 groups in 2 stages; 1.20 epochs of 40 groups"


def test_memory_is_that_of_the_cost_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights in float32 take 4 bytes each, gradients as much and moments twice as much; more than the machine has is
    said."""
    monkeypatch.setattr("basereward.training.cost.run_description.format_bytes", str)
    monkeypatch.setattr("basereward.training.cost.run_description.device_memory", lambda device: 1)
    lines, prepared = described()
    memory = lines[-1]
    size = sum(parameter.numel() for parameter in prepared.module.model.parameters())
    for name, bytes_each in (("weights", 4), ("gradients", 4), ("moments", 8)):
        assert f"{name} {size * bytes_each}," in memory
    assert "may not fit" in memory


def test_lora_is_a_part_of_its_own() -> None:
    """Only adapters and head are trained."""
    lines, _ = described("model.lora.rank=2")
    assert "LoRA of language" in lines[0]
    assert re.search(r"frozen: .*language \(", lines[1])


def test_device_is_named() -> None:
    """With the number of threads, on which the speed of a CPU depends."""
    lines, _ = described()
    assert any(line.startswith("device: CPU") and str(torch.get_num_threads()) in line for line in lines)
