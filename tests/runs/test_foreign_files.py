"""A pipe, a device, a socket or a folder where the project keeps a file of its own is set aside, and work goes on.

Every test would wait for ever if such a pipe were opened.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from basereward.errors import DataError, RunError
from basereward.evaluation.evaluation_folder import read_evaluation
from basereward.io.hashing import CACHED_FROM, file_sha256
from basereward.io.journal import Journal
from basereward.io.lease import acquire
from basereward.io.tensor_cache import TOTAL, SizeLimit, TensorCache
from basereward.runs.locks import lock_run, unlock_run
from basereward.runs.run_folder import RunFolder, resumable_with
from basereward.runs.score_files import read_scores
from basereward.runs.tracking.database import ensure_database
from basereward.runs.tracking.tracker import Tracker, deliver_pending
from basereward.training.run_identity import has_checkpoint
from tests.helpers.evaluation_folders import write_folder


def make_socket(path: Path) -> None:
    """Make a socket at a path, whose length the system limits."""
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


def make_device_link(path: Path) -> None:
    """Make a link to a device, because only an administrator can make a device."""
    path.symlink_to("/dev/zero")


TWO_OBSTACLES = pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
OBSTACLES = pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, make_socket, make_device_link])


def aside(path: Path) -> list[Path]:
    """What was renamed from a path."""
    return list(path.parent.glob(f"{path.name}.aside-*"))


def recorded(name: str) -> tuple[RunFolder, Tracker]:
    """A run of this process with one metric."""
    run = RunFolder.create("name: cell\n", recipe_sha256=name, name=name)
    tracker = Tracker(run)
    tracker.start(experiment="tests")
    tracker.metrics({"train/loss": 1.0}, step=1)
    return run, tracker


@TWO_OBSTACLES
def test_journal_of_an_earlier_run_blocks_no_delivery(
    make: Callable[[Path], None],
    empty_store: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The obstacle is named once and renamed; the records of the other run arrive."""
    store = tmp_path / "mlflow.db"
    shutil.copy(empty_store, store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    blocked = RunFolder.create("name: cell\n", recipe_sha256="a", name="blocked")
    other, tracker = recorded("other")
    tracker.finish("finished")
    for run in (blocked, other):
        run.mark("finished")
    journal = blocked.journal.file
    journal.parent.mkdir()
    make(journal)
    assert (blocked.journal.last(), blocked.journal.pending, blocked.journal.read(0)) == (None, False, [])
    (other.path / "outbox" / "delivered.json").unlink()
    assert deliver_pending() == {other.run_id: True}
    assert len(aside(journal)) == 1
    assert caplog.text.count(str(journal)) == 2  # its old and its new name
    assert deliver_pending() == {}


@TWO_OBSTACLES
def test_run_is_recorded_beside_obstacles(
    make: Callable[[Path], None], empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the place of every file of its journal."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run = RunFolder.create("name: cell\n", recipe_sha256="a", name="cell")
    # A folder belongs in the place of the lease.
    names = ("journal.jsonl", "delivered.json", "refused.jsonl", *(["lease"] if make is not os.mkdir else []))
    (run.path / "outbox").mkdir()
    for name in names:
        make(run.path / "outbox" / name)
    tracker = Tracker(run)
    tracker.start(experiment="tests")
    tracker.metrics({"train/loss": 1.0}, step=1)
    assert tracker.finish("finished")
    assert all(len(aside(run.path / "outbox" / name)) == 1 for name in names)
    assert MlflowClient().get_run(str(run.mlflow_run_id)).data.metrics == {"train/loss": 1.0}


@OBSTACLES
def test_lock_of_a_run_sets_obstacles_aside(make: Callable[[Path], None]) -> None:
    """Before a run continues; a checkpoint that is a folder of this name is left, because it may be one."""
    run = RunFolder.create("name: cell\n", recipe_sha256="a", name="cell")
    files = [run.path / name for name in ("result.json", "identity.json", "lost.jsonl", "sweep.json")]
    # A folder belongs there.
    files += [run.lease] if make is not os.mkdir else []
    files += [run.checkpoints / "last.ckpt"] if make is not os.mkdir else []
    for file in files:
        make(file)
    run.mark("failed", error="x")
    if make is not os.mkdir:
        assert not has_checkpoint(run)
        assert resumable_with("a") is None
    assert lock_run(run)
    unlock_run(run)
    assert [len(aside(file)) for file in files] == [1] * len(files)
    run.write_result({"metrics": {}})
    assert run.result() == {"metrics": {}}


@OBSTACLES
def test_leases_and_journals_set_obstacles_aside(make: Callable[[Path], None], tmp_path: Path) -> None:
    """The lock is on a regular file then, and excludes others."""
    for name in ("lock", "work.jsonl"):
        make(tmp_path / name)
    with acquire(tmp_path / "lock", wait=True):
        assert acquire(tmp_path / "lock", wait=False) is None
    with Journal(tmp_path / "work.jsonl") as journal:
        journal.restart({"of": "squares"})
    assert (tmp_path / "work.jsonl").read_text() == '{"of": "squares"}\n'


@OBSTACLES
def test_caches_replace_obstacles(make: Callable[[Path], None], tmp_path: Path) -> None:
    """A pipe in the place of an entry is no entry, and the entry is written."""
    limit = SizeLimit(2**20, setting="data.encoding.feature_cache")
    cache = TensorCache(tmp_path / "cache", identity="tower", contents="features", limit=limit)
    entry = cache.file("ab" * 32)
    entry.parent.mkdir(parents=True)
    make(entry)
    make(tmp_path / "cache" / TOTAL)
    assert cache.find("ab" * 32) is None
    assert cache.keep("ab" * 32, {"states": torch.ones(2)})
    found = cache.find("ab" * 32)
    assert found is not None
    assert found["states"].tolist() == [1, 1]
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"a" * CACHED_FROM)
    digest = file_sha256(weights)
    (hashed,) = (Path(os.environ["BASEREWARD_CACHE"]) / "hashes").iterdir()
    hashed.unlink()
    make(hashed)
    assert file_sha256(weights) == digest
    assert hashed.is_file()


@OBSTACLES
def test_results_that_are_no_files_are_errors(make: Callable[[Path], None], tmp_path: Path) -> None:
    """They were never written by us, so there is nothing to go on with."""
    make(tmp_path / "val.jsonl")
    with pytest.raises(RunError, match=r"val\.jsonl"):
        read_scores(tmp_path / "val.jsonl")
    folder = Path(write_folder(tmp_path / "one", [True, False]))
    (folder / "items.jsonl").unlink()
    make(folder / "items.jsonl")
    with pytest.raises(DataError, match=r"items\.jsonl"):
        read_evaluation(folder)


def test_store_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    """The address is the user's, so nothing is renamed."""
    os.mkfifo(tmp_path / "mlflow.db")
    with pytest.raises(Exception, match="pipe"):
        ensure_database(tmp_path / "mlflow.db", build=Path.touch)
    assert (tmp_path / "mlflow.db").is_fifo()
