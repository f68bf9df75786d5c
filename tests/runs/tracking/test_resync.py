"""After a kill or a power cut, damaged files are named and skipped, and no run stays open."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient

from basereward.cli import main
from basereward.errors import RunError
from basereward.evaluation.recording import record
from basereward.runs.resolve_model import resolve_model
from basereward.runs.run_folder import RunFolder, find, finished_with, list_runs, scan_runs, unfinished_with
from basereward.runs.score_files import known_scores, read_scores
from basereward.runs.tracking.tracker import Tracker, deliver_pending
from basereward.training.ensembles import make as ensemble_module
from tests.helpers.forked_program import run_program

KILLS = """
import os, signal, sys
from pathlib import Path
from basereward.evaluation.recording import record
from basereward.runs.tracking.mlflow_store import load_mlflow
from basereward.runs.run_folder import RunFolder
from basereward.runs.tracking.tracker import Tracker
from basereward.runs.tracking.upload_worker import UploadWorker
load_mlflow()

def started(kind="run"):
    run = RunFolder.create("name: cell", recipe_sha256="5ha", name=moment, kind=kind)
    tracker = Tracker(run)
    tracker.start(experiment="tests")
    tracker.metrics({"train/loss": 1.0}, step=1)
    return run, tracker

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def before_the_end():
    started()
    die()

def after_the_record_is_closed():
    run, tracker = started()
    UploadWorker.drain = die
    run.write_result({})
    tracker.close("finished")
    die()

def after_the_folder_is_marked():
    run, tracker = started()
    run.write_result({})
    tracker.close("finished")
    run.mark("finished")
    die()

def marked_without_an_end():
    run, tracker = started()
    run.mark("finished")
    die()

def while_an_evaluation_is_recorded():
    run, tracker = started()
    tracker.close("finished")
    run.mark("finished")
    tracker.finish()
    Tracker.artifact = die
    record(run, {"eval/b/accuracy": 0.5}, [run.recipe], folder="evaluations")

def while_an_ensemble_is_recorded():
    started("ensemble")
    die()

for moment in sys.argv[1:]:
    pid = os.fork()
    if not pid:
        globals()[moment]()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
"""
MOMENTS = {
    "before_the_end": "KILLED",
    "after_the_record_is_closed": "FINISHED",
    "after_the_folder_is_marked": "FINISHED",
    "marked_without_an_end": "FINISHED",
    "while_an_evaluation_is_recorded": "FINISHED",
    "while_an_ensemble_is_recorded": "KILLED",
}


@pytest.fixture
def place(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a store and no run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("BASEREWARD_RUNS", str(tmp_path / "runs"))
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


def make(*, sha: str = "5ha", name: str = "cell") -> RunFolder:
    """Make a finished run whose record is delivered."""
    run = RunFolder.create("name: cell\n", recipe_sha256=sha, name=name)
    tracker = Tracker(run)
    tracker.start(experiment="tests")
    tracker.close("finished")
    run.mark("finished")
    assert tracker.finish()
    return run


def test_killed_runs_get_one_final_state(place: Path) -> None:
    """SIGKILL around the end of a run, or while an evaluation or an ensemble is recorded: the next call gives MLflow
    and the folder the same state, and delivers the records."""
    assert run_program(KILLS, *MOMENTS)[0] == 0
    runs = {run.name: run for run in list_runs(kind=None)}
    assert {name: run.state for name, run in runs.items()} == {
        name: final_state.lower() for name, final_state in MOMENTS.items()
    }
    assert all(deliver_pending().values())
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    for moment, final_state in MOMENTS.items():
        recorded = client.get_run(str(runs[moment].mlflow_run_id))
        assert (recorded.info.status, runs[moment].status["state"]) == (final_state, final_state.lower()), moment
        assert recorded.data.metrics["train/loss"] == 1.0
    evaluated = client.get_run(str(runs["while_an_evaluation_is_recorded"].mlflow_run_id))
    assert evaluated.data.metrics["eval/b/accuracy"] == 0.5
    assert deliver_pending() == {}


def test_run_that_was_killed_before_its_journal_is_marked(place: Path) -> None:
    """The folder of a run that died before its first record says killed after the next call."""
    script = """
import os, signal
from basereward.runs.run_folder import RunFolder
RunFolder.create("name: cell", recipe_sha256="5ha", name="cell")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run_program(script)[0] == -signal.SIGKILL
    (run,) = list_runs(kind=None)
    assert run.status["state"] == "running"
    assert deliver_pending() == {}
    assert run.status["state"] == "killed"


def test_interrupt_after_the_end_keeps_finished(place: Path) -> None:
    """An interrupt during the last delivery does not change the state."""
    run = make()
    run.give_up("killed", KeyboardInterrupt())
    assert run.status["state"] == "finished"


def test_interrupt_after_the_record_is_closed_gives_finished(place: Path) -> None:
    """MLflow has the run as finished, so its folder has too."""
    run = RunFolder.create("name: cell\n", recipe_sha256="5ha", name="cell")
    tracker = Tracker(run)
    tracker.start(experiment="tests")
    tracker.close("finished")
    run.give_up("killed", KeyboardInterrupt())
    assert tracker.finish("killed")
    assert (run.status["state"], run.status["error"]) == ("finished", None)
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    assert client.get_run(str(run.mlflow_run_id)).info.status == "FINISHED"


STATUSES = ["{}", "[]", "", '{"name": "x", "ki', "null", '"text"', "\x00" * 100, '{"name": 5}', "[" * 5000]


@pytest.mark.parametrize("status", STATUSES)
def test_broken_status_is_skipped(
    place: Path, status: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder is logged once and skipped by every listing; `ls runs` shows it as broken."""
    valid, broken = make(sha="a"), make(sha="b")
    (broken.path / "status.json").write_text(status)
    caplog.clear()
    assert list_runs() == [valid]
    assert list_runs(kind=None) == [valid]
    assert deliver_pending() == {}
    assert finished_with("a") == valid
    assert finished_with("b") is None
    assert unfinished_with("b") is None
    assert find(valid.run_id) == valid
    with pytest.raises(RunError, match=broken.run_id):
        broken.state  # noqa: B018
    assert [broken.run_id in message.getMessage() for message in caplog.records] == [True]
    assert list(scan_runs(None)[1]) == [broken.run_id]
    assert main(["ls", "runs", "--json"]) == 0
    listed = {row["name"]: row["state"] for row in json.loads(capsys.readouterr().out)["runs"]}
    assert listed == {valid.run_id: "finished", broken.run_id: "broken"}


@pytest.mark.parametrize("file", ["outbox/journal.jsonl", "outbox/delivered.json", "result.json"])
@pytest.mark.parametrize("text", ["", "{}", "[]", '{"cu', "\x00\x00\n"])
def test_broken_file_of_a_run_is_tolerated(place: Path, file: str, text: str) -> None:
    """With any damaged file, runs are listed, earlier ones delivered, and an evaluation is recorded."""
    run, other = make(sha="a"), make(sha="b")
    mlflow_run_id = run.mlflow_run_id
    run.write_result({"metrics": {}})
    (run.path / file).write_text(text)
    assert set(list_runs()) == {run, other}
    assert (run.result() or {}) in ({}, {"metrics": {}})
    deliver_pending()
    record(run, {"eval/b/accuracy": 0.5}, [], folder="evaluations")
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    recorded = client.get_run(str(run.mlflow_run_id))
    assert (recorded.info.run_id, recorded.info.status) == (mlflow_run_id, "FINISHED")
    assert recorded.data.metrics == {"eval/b/accuracy": 0.5}
    assert resolve_model(run.run_id, root=place / "runs") == run.model if run.model.exists() else True
    assert deliver_pending() == {}


def test_other_file_types_in_a_run_folder_are_tolerated(place: Path) -> None:
    """A file in place of the journal folder, a folder or a FIFO in place of the status, and a missing status."""
    valid = make(sha="a")
    blocked, folder, fifo, without_status = (make(sha=sha) for sha in "bcde")
    shutil.rmtree(blocked.path / "outbox")
    (blocked.path / "outbox").write_text("")
    for run in (folder, fifo, without_status):
        (run.path / "status.json").unlink()
    (folder.path / "status.json").mkdir()
    os.mkfifo(fifo.path / "status.json")
    assert set(list_runs()) == {valid, blocked}
    assert scan_runs(None)[1].keys() == {folder.run_id, fifo.run_id, without_status.run_id}
    assert deliver_pending() == {}
    assert find(valid.run_id) == valid


def test_interrupted_ensemble_is_killed_in_mlflow(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C between two files, MLflow does not show the run as running for ever."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    run = RunFolder.create("name: both\n", recipe_sha256="e", name="both", kind="ensemble")
    monkeypatch.setattr(Tracker, "artifacts", interrupted)
    result = {"how": "mean", "members": [], "accuracy": 0.5}
    with pytest.raises(KeyboardInterrupt):
        ensemble_module._record(run, result, rule=None, tracking={})
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    assert client.get_run(str(run.mlflow_run_id)).info.status == "KILLED"


def test_damaged_scores_are_skipped_or_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`known_scores` skips the file, so that reports and comparisons continue; `read_scores` raises an error with its
    name."""
    file = tmp_path / "test.jsonl"
    for text in ('{"id": "a"}\n', "[]\n", '{"id": "a", "sou', "\x00\n"):
        file.write_text(text)
        assert known_scores(file) == []
        with pytest.raises(RunError, match=str(file)):
            read_scores(file)
    assert str(file) in caplog.text
