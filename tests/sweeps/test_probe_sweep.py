"""Test sweeps of probes: cells share a process and its pooled states, and each has a run of its own. Real processes are
killed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main
from basereward.runs.run_folder import RunFolder, find

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_workers")]

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


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Return the folder of this file's runs, with two more experiments than the project's."""
    folder = tmp_path_factory.mktemp("probes")
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    (folder / "experiments" / "heads.yaml").write_text(HEADS)
    (folder / "experiments" / "rates.yaml").write_text(RATES)
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture(autouse=True)
def _here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the runs of this file; dotted paths resolve from the project's folder."""
    monkeypatch.setenv("BASEREWARD_RUNS", str(place / "runs"))
    monkeypatch.setenv("BASEREWARD_CACHE", str(place / "cache"))
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(place / "experiments"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place / 'mlflow.db'}")
    monkeypatch.chdir(ROOT)


def swept(experiment: str, capfd: pytest.CaptureFixture[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the cells of a sweep and the lines of its standard error."""
    main(["sweep", experiment, "--profile", "tests/small.yaml", "--trust", "--json"])
    printed = capfd.readouterr()
    return json.loads(printed.out)["cells"], printed.err.splitlines()


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    """Return what the first sweep of the heads has given."""
    return {}


@pytest.fixture
def heads(known: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Sweep the heads once; return the cells and the lines of standard error."""
    if not known:
        known["cells"], known["lines"] = swept("heads", capfd)
    return known["cells"], known["lines"]


def process_of(run: RunFolder) -> int:
    """Return the id of the process that last worked on a run."""
    return int(run.status["process"]["pid"])


def test_cells_share_a_process_and_its_states(
    heads: tuple[list[dict[str, Any]], list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    """States are computed once for all cells. A process that dies fails one cell; the others run in a new process,
    which reads the stored states. Finished cells are skipped."""
    cells, lines = heads
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
    cells_again, _ = swept("heads", capfd)
    assert [cell["status"] for cell in cells_again] == ["skipped", "failed", "skipped", "skipped"]


def test_failed_cell_does_not_affect_the_next(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The next cell runs in a new process."""
    monkeypatch.setenv("BASEREWARD_CACHE", str(tmp_path / "cache"))
    cells, lines = swept("rates", capfd)
    assert [cell["status"] for cell in cells] == ["finished", "failed", "finished"]
    assert "The rows of the step: " in cells[1]["error"]
    first, wild, last = (find(cell["run_id"]) for cell in cells)
    assert wild.state == "failed"
    assert process_of(first) == process_of(wild) != process_of(last)
    assert "pooled states of train: 0 of 40 groups to compute" in lines
    assert not any("Traceback" in line for line in lines)


def test_cell_equals_a_run_of_its_own(
    heads: tuple[list[dict[str, Any]], list[str]],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The last cell of a process has the bits of a separate run with an empty cache."""
    deeper = find(heads[0][3]["run_id"])
    monkeypatch.setenv("BASEREWARD_CACHE", str(tmp_path / "cache"))
    overrides = ["probe=true", "model.head.layers=4"]
    assert main(["train", "basereward", "--profile", "tests/small.yaml", *overrides, "--json"]) == 0
    alone = find(json.loads(capfd.readouterr().out)["run_id"])
    heads = [(run.model / "head.safetensors").read_bytes() for run in (deeper, alone)]
    assert heads[0] == heads[1]
