"""Test grids on the command line: `grid` replaces, `+grid` adds."""

from __future__ import annotations

import pytest

from basereward.recipe import find_faults, load_cells


def names(*overrides: str, experiment: str = "head_depth") -> list[str]:
    """Return the names of the cells."""
    return [cell.name for cell in load_cells(experiment, overrides=overrides)]


def test_axis_is_replaced_and_not_merged() -> None:
    """The axis of the file is a mapping of labels; none of them stays."""
    assert names("grid.model.head={wide: {_target_: mlp, width: 128}}") == ["head=wide"]
    assert names("grid.model.head=[{_target_: linear}]") == ["head=linear"]


def test_axis_is_added() -> None:
    """The cells are the product of both axes."""
    cells = names("+grid.optimizer.lr=[1e-3,1e-4]")
    assert len(cells) == 14
    assert cells[:2] == ["head=1_none,lr=0.001", "head=1_none,lr=0.0001"]
    assert names("+grid={optimizer.lr: [1e-3]}", "grid.model.head={a: {_target_: linear}}") == ["head=a,lr=0.001"]


def test_whole_grid_is_replaced() -> None:
    """No axis of the file stays."""
    assert names("grid={optimizer.lr: [1e-3,1e-4]}") == ["lr=0.001", "lr=0.0001"]
    assert names("grid=null", "grid.optimizer.lr=[1e-3]") == ["lr=0.001"]


def test_experiment_without_axes_takes_any() -> None:
    """There is nothing that could be replaced by mistake."""
    assert names("grid.optimizer.lr=[1e-3,1e-4]", "grid.seeds.init=[1]", experiment="basereward") == [
        "lr=0.001,init=1",
        "lr=0.0001,init=1",
    ]


@pytest.mark.parametrize(
    ("override", "key", "hint"),
    [
        ("grid.optimizer.lr=[1e-3]", "grid.optimizer.lr", "+grid.optimizer.lr"),
        ("grid.model.haed=[mlp]", "grid.model.haed", "model.head"),
        ("+grid.model.head=[{_target_: linear}]", "grid.model.head", " grid.model.head="),
        ("+optimizer.lr=1e-3", "+optimizer.lr", "optimizer.lr="),
    ],
)
def test_wrong_sign_is_a_fault_that_names_the_right_one(override: str, key: str, hint: str) -> None:
    """A misspelt axis would otherwise multiply the cells, and a repeated one would silently replace values."""
    _, faults = find_faults("head_depth", overrides=[override])
    assert any(hint in fault.message for fault in faults if fault.key == key)
