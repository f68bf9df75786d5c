"""Test what a cell asks for: the devices of its recipe, or as many GPUs as its memory needs by count."""

from __future__ import annotations

from pathlib import Path

import pytest

from basereward.errors import ClusterError
from basereward.model.cost.memory import Memory
from basereward.recipe import Cell, load_cells, recipe_sha256
from basereward.sweeps.launcher import Launcher, load_launcher
from basereward.sweeps.scheduling.resources import describe_plan, with_devices

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30
# 90 % of a GPU of 80 GiB are used: 72. One has 125 of it, two 65 of what fsdp2 divides and 5 besides.
LARGE = Memory(weights=30 * GIB, gradients=30 * GIB, moments=60 * GIB, copies=0, activations=5 * GIB)
SMALL = Memory(weights=15 * GIB, gradients=GIB, moments=2 * GIB, copies=0, activations=40 * GIB)


def cells_of(*overrides: str) -> list[Cell]:
    """Return two cells."""
    profile = str(ROOT / "tests" / "small.yaml")
    grid = "grid.optimizer.lr={a: 1e-3, b: 1e-4}"
    return load_cells("basereward", profile=profile, overrides=["trainer.accelerator=auto", grid, *overrides])


@pytest.fixture
def launcher() -> Launcher:
    """Return the launcher of a cluster with GPUs of 80 GiB."""
    return load_launcher("slurm", gpu_memory=80)


def devices(cells: list[Cell]) -> list[int | None]:
    """Return the number of devices of each cell."""
    return [cell.recipe.trainer.devices for cell in cells]


def test_cell_without_devices_gets_as_many_as_it_needs(launcher: Launcher) -> None:
    """125 GiB need two GPUs of 80, 58 GiB one. The hashes of the recipes stay, and the plan says it."""
    cells = cells_of()
    held = {"lr=a": LARGE, "lr=b": SMALL}
    chosen = with_devices(cells, held, launcher)
    assert devices(chosen) == [2, 1]
    assert [recipe_sha256(cell.recipe) for cell in chosen] == [recipe_sha256(cell.recipe) for cell in cells]
    assert list(describe_plan(chosen, held, launcher)) == [
        "plan: 1 cell, each on 2 GPUs, 125 GiB by count, for GPUs of 80 GiB",
        "plan: 1 cell, each on 1 GPU, 58 GiB by count, for GPUs of 80 GiB",
    ]


def test_stated_devices_stay(launcher: Launcher) -> None:
    """The same where the GPUs are not known, where the cell runs on a CPU, and where its memory was not counted."""
    held = {"lr=a": LARGE, "lr=b": LARGE}
    assert devices(with_devices(cells_of("trainer.devices=1"), held, launcher)) == [1, 1]
    assert devices(with_devices(cells_of(), held, load_launcher("slurm"))) == [None, None]
    assert devices(with_devices(cells_of("trainer.accelerator=cpu"), held, launcher)) == [None, None]
    assert devices(with_devices(cells_of(), {"lr=a": LARGE}, launcher)) == [2, None]


def test_cell_that_fits_on_no_machine(launcher: Launcher) -> None:
    """Activations are not divided, and with ddp nothing is."""
    too_large = Memory(weights=GIB, gradients=GIB, moments=2 * GIB, copies=0, activations=100 * GIB)
    with pytest.raises(ClusterError, match="lr=a"):
        with_devices(cells_of(), {"lr=a": too_large}, launcher)
    with pytest.raises(ClusterError, match="lr=b"):
        with_devices(cells_of("trainer.strategy=ddp"), {"lr=b": LARGE}, launcher)
