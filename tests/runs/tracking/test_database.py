"""The database of a new MLflow store: complete or absent, created by one of many processes, and usable after a move."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from basereward.runs.tracking import database as tracking_database
from basereward.runs.tracking.database import ensure_database, move_artifact_addresses
from basereward.runs.tracking.mlflow_store import MlflowStore, _build_database
from basereward.runs.tracking.uploader import Refused
from tests.helpers.forked_program import run_program

KILLS = """
import os, signal, sys, time
from pathlib import Path
from basereward.runs.tracking.mlflow_store import MlflowStore, load_mlflow
load_mlflow()
import mlflow.store.tracking.sqlalchemy_store  # so that a child spends its time on the database

folder = Path(sys.argv[1])
folder.mkdir()

def child():
    pid = os.fork()
    if not pid:
        MlflowStore(f"sqlite:///{folder}/mlflow.db")
        os._exit(0)
    return pid

for delay in (0.0, 0.2, 0.5, 1.0):
    pid = child()
    while not any(folder.iterdir()):  # the first file appears
        time.sleep(0.002)
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    names = [path.name for path in folder.iterdir()]
    print("after", delay, sorted(name.split(".")[-1] for name in names), flush=True)
    if "mlflow.db" in names:
        print("made", flush=True)
        (folder / "mlflow.db").unlink()
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in [child(), child(), child()]]
print("together", codes, sorted(path.name for path in folder.iterdir()), flush=True)
"""


@pytest.fixture(scope="module")
def complete_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete database."""
    path = tmp_path_factory.mktemp("whole") / "mlflow.db"
    ensure_database(path, build=_build_database)
    return path


def test_killed_and_concurrent_creations_leave_one_database(tmp_path: Path) -> None:
    """SIGKILL at several moments after the first file appears leaves no partial database under its name. Three
    concurrent processes then all open the store, and only one database exists."""
    folder = tmp_path / "store"
    code, output = run_program(KILLS, folder)
    assert code == 0
    lines = output.splitlines()
    assert len([line for line in lines if line.startswith("after")]) == 4
    assert "made" not in lines[:2], lines  # a kill in the first moments comes before the database has its name
    assert lines[-1] == "together [0, 0, 0] ['mlflow.db']"
    assert [experiment.name for experiment in MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()] == [
        "Default"
    ]


def _write_partial_database(path: Path) -> None:
    """Create tables as an interrupted creation leaves them."""
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE experiments (experiment_id INTEGER, name TEXT, artifact_location TEXT)")
        database.execute("CREATE TABLE runs (run_uuid TEXT)")


@pytest.mark.parametrize("leftover", ["tables", "empty"])
def test_partial_database_is_replaced(
    tmp_path: Path,
    leftover: str,
    complete_database: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A database without the last migration, and an empty file, are replaced; the tables are kept under another
    name."""
    monkeypatch.setattr(tracking_database, "GROWING_S", 0.0)
    path = tmp_path / "mlflow.db"
    if leftover == "tables":
        _write_partial_database(path)
    else:
        path.touch()
    ensure_database(path, build=lambda target: shutil.copy(complete_database, target) and None)
    assert path.read_bytes() == complete_database.read_bytes()
    kept_names = [entry.name for entry in tmp_path.iterdir() if entry != path]
    assert len(kept_names) == (leftover == "tables")
    assert (str(path) in caplog.text) == (leftover == "tables")


def test_database_that_another_program_creates_is_awaited(tmp_path: Path, complete_database: Path) -> None:
    """`mlflow ui` does not know our lock; its young database is not replaced."""
    path = tmp_path / "mlflow.db"
    _write_partial_database(path)
    finish = f"import shutil, time; time.sleep(0.5); shutil.copy({str(complete_database)!r}, {str(path)!r})"
    with subprocess.Popen([sys.executable, "-c", finish]):
        ensure_database(path, build=lambda target: pytest.fail("built a second one"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["mlflow.db"]


def test_files_of_the_user_are_refused_and_kept(
    tmp_path: Path, complete_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partial database with runs, a text file and a folder stay, and the error names them."""
    monkeypatch.setattr(tracking_database, "GROWING_S", 0.0)
    with_runs, text, folder = tmp_path / "held.db", tmp_path / "text.db", tmp_path / "folder.db"
    _write_partial_database(with_runs)
    with sqlite3.connect(with_runs) as database:
        database.execute("INSERT INTO runs VALUES ('a')")
    text.write_text("no database " * 100)
    folder.mkdir()
    before = with_runs.read_bytes(), text.read_text()
    for path in (with_runs, text, folder):
        with pytest.raises(Refused, match=str(path)):
            MlflowStore(f"sqlite:///{path}")
    assert (with_runs.read_bytes(), text.read_text()) == before


def _record(folder: Path, name: str, text: str) -> str:
    """Record a run of the experiment `exp` with one artifact, and return its id."""
    store = MlflowStore(f"sqlite:///{folder}/mlflow.db")
    start = {"experiment": "exp", "tags": {"basereward.run_id": name}, "time": 1, "name": name}
    run_id = store.open_run(start)
    file = folder / "note.txt"
    file.write_text(text)
    store.artifact(run_id, file, "")
    file.unlink()
    return run_id


def _note(folder: Path, run_id: str, to: Path) -> str:
    """Return the artifact of a run, downloaded into `to`."""
    to.mkdir()
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return Path(client.download_artifacts(run_id, "note.txt", str(to))).read_text()


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_artifacts_follow_a_moved_or_copied_project(tmp_path: Path, how: str, complete_database: Path) -> None:
    """After a move, old artifacts are read and new ones written in the new folder, and the old one is not created
    again; after a copy, the original does not change."""
    old, new = tmp_path / "a b", tmp_path / "c"
    old.mkdir()
    shutil.copy(complete_database, old / "mlflow.db")
    first = _record(old, "one", "first")
    if how == "moved":
        old.rename(new)
    else:
        shutil.copytree(old, new)
        shutil.rmtree(old / "mlartifacts" / "exp" / first / "artifacts")  # so that reading there would fail
    second = _record(new, "two", "second")
    assert _note(new, first, tmp_path / "1") == "first"
    assert _note(new, second, tmp_path / "2") == "second"
    assert (new / "mlartifacts" / "exp" / second / "artifacts" / "note.txt").is_file()
    assert old.exists() == (how == "copied")
    assert move_artifact_addresses(new / "mlflow.db") == 0


def test_artifacts_at_the_old_place_stay_readable(tmp_path: Path, complete_database: Path) -> None:
    """If only the database was moved, the experiment keeps its address. If the files of one run were left behind, that
    run keeps its address."""
    old, new = tmp_path / "a", tmp_path / "b"
    old.mkdir()
    new.mkdir()
    shutil.copy(complete_database, old / "mlflow.db")
    first, second = _record(old, "one", "first"), _record(old, "two", "second")
    shutil.move(old / "mlflow.db", new / "mlflow.db")
    assert move_artifact_addresses(new / "mlflow.db") == 1  # `Default`, which has no files anywhere
    (new / "mlartifacts" / "exp").mkdir(parents=True)
    (old / "mlartifacts" / "exp" / second).rename(new / "mlartifacts" / "exp" / second)
    assert move_artifact_addresses(new / "mlflow.db") == 1
    assert _note(new, first, tmp_path / "1") == "first"
    assert _note(new, second, tmp_path / "2") == "second"
