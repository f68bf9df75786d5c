"""Test law 12: the loss of a step does not depend on how its groups are divided into micro-batches."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from basereward.model.losses.contracts import build_loss
from basereward.recipe.checks.targets import short_names
from tests.helpers.one_step import FirstStep, row_file
from tests.helpers.support import checkpoint

RELATIVE = 1e-6
GRADIENT = 1e-5  # the rounding of float32 in a backward pass, as in law 1
OPTIONS: dict[str, list[dict[str, Any]]] = {  # a loss that is not listed has no options
    "bradley_terry": [
        {},
        {"ties": "ignore"},
        {"weighting": "preference"},
        {"weighting": "preference", "ties": "ignore"},
        {"margin": "data", "label_smoothing": 0.1, "centring": 0.01, "length_normalisation": True},
        {"centring": 0.01, "weighting": "preference", "ties": "ignore"},
    ],
}
LOSSES = [{"_target_": name, **options} for name in short_names("losses") for options in OPTIONS.get(name, [{}])]
BRIEF = {"prompt": "critique_brief", "max_tokens": 3}
HEADS = {
    "mlp": {"_target_": "mlp"},
    "critic": {"_target_": "critic", "critiques": "both", "language_weight": 0.5, **BRIEF},
    "generative": {"_target_": "generative"},
    "rating": {"_target_": "rating"},
}
# Heads that do not rank use no ranking loss.
CASES = [(head, loss) for head in HEADS for loss in LOSSES if head in ("mlp", "critic") or loss == LOSSES[0]]


def named(case: tuple[str, dict[str, Any]]) -> str:
    """Return a short name of a case."""
    head, loss = case
    return "-".join([head, *map(str, loss.values())])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small text-only checkpoint and the rows."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    folder = tmp_path_factory.mktemp("law-12")
    checkpoint("qwen3", folder / "model")
    row_file(folder)
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", CASES, ids=named)
def test_law_12_step_does_not_depend_on_micro_batches(case: tuple[str, dict[str, Any]], folder: Path) -> None:
    """The logged loss and all gradients of a step are equal in one forward pass, in two, in one per group, and with a
    token budget. The groups have different numbers of preferences and ties."""
    head, loss = case
    step = FirstStep(folder / "model", folder / "rows.jsonl", head=HEADS[head], loss=build_loss(loss))
    expected_loss, expected_gradient = step(folder, groups_per_forward=6)
    assert expected_gradient.norm() > 0
    divisions: list[dict[str, Any]] = [{"groups_per_forward": 3}, {"groups_per_forward": 1}, {"budget": step.largest}]
    for division in divisions:
        value, gradient = step(folder, **division)
        assert value == pytest.approx(expected_loss, rel=RELATIVE), division
        assert float((gradient - expected_gradient).norm()) <= GRADIENT * float(expected_gradient.norm()), division


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("options", OPTIONS["bradley_terry"][:4], ids=str)
def test_law_12_holds_for_streams(options: dict[str, Any], folder: Path) -> None:
    """The preferences of a step are counted before its first pass, although a stream's rows are unknown in advance."""
    loss = build_loss({"_target_": "bradley_terry", **options})
    step = FirstStep(folder / "model", folder / "rows.jsonl", head=HEADS["mlp"], loss=loss)
    expected_loss, expected_gradient = step(folder, streamed=True, groups_per_forward=6)
    for size in (3, 1):
        value, gradient = step(folder, streamed=True, groups_per_forward=size)
        assert value == pytest.approx(expected_loss, rel=RELATIVE)
        assert float((gradient - expected_gradient).norm()) <= GRADIENT * float(expected_gradient.norm())
