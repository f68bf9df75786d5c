"""The database of a new store is made whole or not at all, by one of many processes, and survives a move."""

from __future__ import annotations

import os
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

ROOT = Path(__file__).parents[3]

KILLS = """
import os, signal, sys, time
from pathlib import Path
from basereward.runs.tracking.mlflow_store import MlflowStore, load_mlflow
load_mlflow()
import mlflow.store.tracking.sqlalchemy_store  # so that a child's time goes into the database

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
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete database."""
    path = tmp_path_factory.mktemp("whole") / "mlflow.db"
    ensure_database(path, build=_build_database)
    return path


def test_kills_and_simultaneous_first_runs_leave_one_whole_database(tmp_path: Path) -> None:
    """SIGKILL at several moments after the first file appears leaves no half of a database under its name; then three
    processes at once all open the store, one database is there and nothing else."""
    folder = tmp_path / "store"
    command = [sys.executable, "-c", KILLS, str(folder)]
    ours = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ours)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len([line for line in lines if line.startswith("after")]) == 4
    assert "made" not in lines[:2], lines  # a kill in the first moments comes before the database has its name
    assert lines[-1] == "together [0, 0, 0] ['mlflow.db']"
    assert [experiment.name for experiment in MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()] == [
        "Default"
    ]


def _half(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE experiments (experiment_id INTEGER, name TEXT, artifact_location TEXT)")
        database.execute("CREATE TABLE runs (run_uuid TEXT)")


@pytest.mark.parametrize("left", ["tables", "empty"])
def test_what_an_earlier_kill_left_half_made_is_set_aside(
    tmp_path: Path, left: str, whole: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Tables without the last step, and an empty file, give way to a whole database; the tables are kept aside."""
    monkeypatch.setattr(tracking_database, "GROWING_S", 0.0)
    path = tmp_path / "mlflow.db"
    if left == "tables":
        _half(path)
    else:
        path.touch()
    ensure_database(path, build=lambda place: shutil.copy(whole, place) and None)
    assert path.read_bytes() == whole.read_bytes()
    aside = [entry.name for entry in tmp_path.iterdir() if entry != path]
    assert len(aside) == (left == "tables")
    assert (str(path) in caplog.text) == (left == "tables")


def test_a_database_that_another_program_is_making_is_waited_for(tmp_path: Path, whole: Path) -> None:
    """`mlflow ui` at its own first start does not know our lock: its young database is not taken away."""
    path = tmp_path / "mlflow.db"
    _half(path)
    finish = f"import shutil, time; time.sleep(0.5); shutil.copy({str(whole)!r}, {str(path)!r})"
    with subprocess.Popen([sys.executable, "-c", finish]):
        ensure_database(path, build=lambda place: pytest.fail("built a second one"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_half_made_database_with_runs_and_other_files_are_refused_and_kept(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the user's is moved: a database with runs, a text file and a folder stay, and are named."""
    monkeypatch.setattr(tracking_database, "GROWING_S", 0.0)
    held, text, folder = tmp_path / "held.db", tmp_path / "text.db", tmp_path / "folder.db"
    _half(held)
    with sqlite3.connect(held) as database:
        database.execute("INSERT INTO runs VALUES ('a')")
    text.write_text("no database " * 100)
    folder.mkdir()
    before = held.read_bytes(), text.read_text()
    for path in (held, text, folder):
        with pytest.raises(Refused, match=str(path)):
            MlflowStore(f"sqlite:///{path}")
    assert (held.read_bytes(), text.read_text()) == before


def _record(folder: Path, name: str, text: str) -> str:
    """A run of the experiment `exp` with one artifact; its id."""
    store = MlflowStore(f"sqlite:///{folder}/mlflow.db")
    start = {"experiment": "exp", "tags": {"basereward.run_id": name}, "time": 1, "name": name}
    run_id = store.open_run(start)
    file = folder / "note.txt"
    file.write_text(text)
    store.artifact(run_id, file, "")
    file.unlink()
    return run_id


def _note(folder: Path, run_id: str, to: Path) -> str:
    to.mkdir()
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return Path(client.download_artifacts(run_id, "note.txt", str(to))).read_text()


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_artifacts_follow_a_project_that_was_moved_or_copied(tmp_path: Path, how: str, whole: Path) -> None:
    """After `mv "a b" c` the old run's artifact is read in c, a new run's is written in c, and `a b` is not made again;
    after `cp -r` the original stays as it is."""
    old, new = tmp_path / "a b", tmp_path / "c"
    old.mkdir()
    shutil.copy(whole, old / "mlflow.db")
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


def test_a_run_whose_artifacts_are_still_at_the_old_place_stays_readable(tmp_path: Path, whole: Path) -> None:
    """Only the database was moved: the experiment keeps its address. One run's files were left behind: that
    one keeps its address."""
    old, new = tmp_path / "a", tmp_path / "b"
    old.mkdir()
    new.mkdir()
    shutil.copy(whole, old / "mlflow.db")
    first, second = _record(old, "one", "first"), _record(old, "two", "second")
    shutil.move(old / "mlflow.db", new / "mlflow.db")
    assert move_artifact_addresses(new / "mlflow.db") == 1  # `Default`, which has no files anywhere
    (new / "mlartifacts" / "exp").mkdir(parents=True)
    (old / "mlartifacts" / "exp" / second).rename(new / "mlartifacts" / "exp" / second)
    assert move_artifact_addresses(new / "mlflow.db") == 1
    assert _note(new, first, tmp_path / "1") == "first"
    assert _note(new, second, tmp_path / "2") == "second"
