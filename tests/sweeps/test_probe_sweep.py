"""Sweeps of probes: cells that share a process and its states, and are runs of their own. Real processes that die."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main
from basereward.runs.run_folder import RunFolder, find

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
HEADS = """\
# Heads of three depths, one of which no training survives, and one whose process dies.
include: basereward
probe: true
grid:
  model.head:
    shallow: {_target_: linear}
    deadly: {_target_: tests.helpers.deadly_head.DeadlyHead}
    deep: {_target_: mlp, layers: 3}
    deeper: {_target_: mlp, layers: 4}
"""
RATES = """\
# A learning rate that no training survives, between two that it does.
include: basereward
probe: true
grid:
  optimizer.lr: {first: 1e-3, wild: 1e30, last: 1e-4}
"""


@pytest.fixture(autouse=True)
def experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's and two of our own; dotted paths are found from the project's folder."""
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    (tmp_path / "experiments" / "heads.yaml").write_text(HEADS)
    (tmp_path / "experiments" / "rates.yaml").write_text(RATES)
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(tmp_path / "experiments"))
    monkeypatch.chdir(ROOT)


def swept(experiment: str, capfd: pytest.CaptureFixture[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The cells of a sweep, and the lines of its standard error."""
    main(["sweep", experiment, "--profile", "tests/small.yaml", "--trust", "--json"])
    printed = capfd.readouterr()
    return json.loads(printed.out)["cells"], printed.err.splitlines()


def process_of(run: RunFolder) -> int:
    """The process that worked on a run last."""
    return int(run.status["process"]["pid"])


def test_cells_share_a_process_and_its_states_until_it_dies(capfd: pytest.CaptureFixture[str]) -> None:
    """States are computed once for all cells. A process that dies takes one cell with it: the rest runs in another one,
    which finds the states, and shares them again. What is finished is skipped."""
    cells, lines = swept("heads", capfd)
    assert [cell["status"] for cell in cells] == ["finished", "failed", "finished", "finished"]
    assert "its process ended with signal 9 and left no result" in cells[1]["error"]
    logged = [line for line in lines if line.startswith("pooled states of train")]
    assert logged == [
        "pooled states of train: 40 of 40 groups to compute",
        "pooled states of train: 0 of 40 groups to compute",
    ]
    shallow, _, deep, deeper = (find(cell["run_id"]) if cell["run_id"] else None for cell in cells)
    assert shallow is not None
    assert deep is not None
    assert deeper is not None
    assert process_of(deep) == process_of(deeper) != process_of(shallow)
    assert [run.state for run in (shallow, deep, deeper)] == ["finished"] * 3
    assert {run.status["parent"] for run in (shallow, deep, deeper)} == {shallow.status["parent"]}
    assert (deep.model / "head.safetensors").stat().st_size < (deeper.model / "head.safetensors").stat().st_size
    again, _ = swept("heads", capfd)
    assert [cell["status"] for cell in again] == ["skipped", "failed", "skipped", "skipped"]


def test_a_cell_that_fails_takes_no_other_with_it(capfd: pytest.CaptureFixture[str]) -> None:
    """The next one gets a process that nothing has gone wrong in."""
    cells, lines = swept("rates", capfd)
    assert [cell["status"] for cell in cells] == ["finished", "failed", "finished"]
    assert "The rows of the step: " in cells[1]["error"]
    first, wild, last = (find(cell["run_id"]) for cell in cells)
    assert wild.state == "failed"
    assert process_of(first) == process_of(wild) != process_of(last)
    assert "pooled states of train: 0 of 40 groups to compute" in lines
    assert not any("Traceback" in line for line in lines)


def test_a_cell_comes_to_what_it_comes_to_alone(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The third of a process has the bits of a run of its own with nothing kept."""
    cells, _ = swept("heads", capfd)
    deeper = find(cells[3]["run_id"])
    monkeypatch.setenv("BASEREWARD_CACHE", str(tmp_path / "cache"))
    change = ["probe=true", "model.head.layers=4"]
    assert main(["train", "basereward", "--profile", "tests/small.yaml", *change, "--json"]) == 0
    alone = find(json.loads(capfd.readouterr().out)["run_id"])
    heads = [(run.model / "head.safetensors").read_bytes() for run in (deeper, alone)]
    assert heads[0] == heads[1]
