"""Test the choice of cells by `--only`."""

from __future__ import annotations

from pathlib import Path

import pytest

from basereward.cli import main
from basereward.errors import RecipeError
from basereward.recipe import load_experiment
from basereward.sweeps.selection import select_cells

ROOT = Path(__file__).resolve().parents[2]


def names(patterns: list[str], experiment: str = "head_depth", overrides: tuple[str, ...] = ()) -> list[str]:
    """Return the names of the selected cells."""
    return [cell.name for cell in select_cells(load_experiment(experiment, overrides=overrides), patterns).cells]


def test_patterns_choose_cells_in_the_order_of_the_grid() -> None:
    """A cell that two patterns match is there once; without a pattern all are."""
    assert names(["head=3*", "head=2_*", "*_silu"]) == [
        "head=2_none", "head=2_tanh", "head=2_silu", "head=3_silu", "head=4_silu", "head=5_silu",
    ]  # fmt: skip
    assert len(names([])) == 7


def test_name_with_brackets_is_found_as_it_is() -> None:
    """A glob would read them as a choice of characters."""
    axis = "grid.model.backbone.freeze=[[vision,merger],[vision]]"
    assert names(["freeze=[vision,merger]"], "basereward", (axis,)) == ["freeze=[vision,merger]"]


def test_ensembles_need_all_of_their_members() -> None:
    """An ensemble with a member that is not selected is left out."""
    experiment = load_experiment("ensembles")
    some = select_cells(experiment, [experiment.cells[0].name])
    assert len(some.cells) == 1
    assert some.ensembles == {}
    assert select_cells(experiment, ["*"]).ensembles == experiment.ensembles


def test_pattern_without_a_cell_lists_the_cells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of several patterns that matches nothing is a mistake too, and nothing is trained."""
    with pytest.raises(RecipeError, match="head=5_silu"):
        names(["head=2_*", "head=9_*"])
    monkeypatch.chdir(ROOT)
    assert main(["sweep", "head_depth", "--only", "head=9_*"]) == 2
    assert "head=1_none" in capsys.readouterr().err
