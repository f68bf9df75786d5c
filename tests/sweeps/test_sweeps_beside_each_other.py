"""Test two concurrent sweeps of one grid, as on two GPUs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from basereward.runs.locks import cell_lock
from tests.sweeps.test_sweep import ROOT, SEEDS, Place

pytestmark = pytest.mark.slow


def test_concurrent_sweeps_share_their_cells(tmp_path: Path, empty_store: Path) -> None:
    """Every cell is trained once by one of the sweeps, and both report all cells."""
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    (tmp_path / "experiments" / "seeds.yaml").write_text(SEEDS)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    place = Place(tmp_path)
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    processes = [place.sweep(log) for log in logs]
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], [log.read_text() for log in logs]
    first, second = (json.loads(text)["cells"] for text in printed)
    assert [cell["run_id"] for cell in first] == [cell["run_id"] for cell in second]
    assert [cell["metrics"] for cell in first] == [cell["metrics"] for cell in second]
    pairs = zip(first, second, strict=True)
    assert all({cell["status"], same["status"]} == {"finished", "skipped"} for cell, same in pairs)
    assert len(place.runs()) == 3
    assert any("is trained by another process" in log.read_text() for log in logs)


def test_cell_lock_is_released_at_the_end_of_its_block() -> None:
    """A second lock of the same recipe is refused, one of another recipe is given, and after the block both are
    given."""
    with cell_lock("a", wait=False) as locked:
        assert locked
        with cell_lock("a", wait=False) as same_recipe, cell_lock("b", wait=False) as other_recipe:
            assert not same_recipe
            assert other_recipe
    with cell_lock("a", wait=True) as locked:
        assert locked
