"""What a run records reaches MLflow once and whole, whatever happens to the server and to the run."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from basereward.cli import main
from basereward.errors import RunError
from basereward.recipe.schema import Recipe
from basereward.runs.resolve_model import resolve_model
from basereward.runs.run_folder import RunFolder
from basereward.runs.tracking import mlflow_store
from basereward.runs.tracking import tracker as tracking
from basereward.runs.tracking import upload_worker as worker
from basereward.runs.tracking.journal import RunJournal
from basereward.runs.tracking.tracker import Tracker, check_store, deliver_pending
from tests.helpers.servers import Server
from tests.helpers.support import SMALL

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of waiting prove nothing more than tenths of them."""
    monkeypatch.setattr(worker, "INTERVAL_S", 0.1)
    monkeypatch.setattr(worker, "RETRY_S", (0.1, 0.5))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables; making them takes seconds, copying it none."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def place(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the default store and no run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("BASEREWARD_RUNS", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def server(tmp_path: Path, empty_store: Path) -> Iterator[Server]:
    """A server that is not started yet."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    server = Server(tmp_path)
    yield server
    server.kill()


def create(*, name: str = "cell", parent: str | None = None) -> RunFolder:
    """A run folder in ./runs."""
    return RunFolder.create("name: cell\n", recipe_sha256="5ha", name=name, parent=parent)


def started(folder: RunFolder | None = None, **arguments: str) -> Tracker:
    """A tracker that has begun its record."""
    tracker = Tracker(folder or create())
    tracker.start(Recipe(name="cell"), experiment="tests", **arguments)
    return tracker


def client() -> MlflowClient:
    """Looks into the default store."""
    return MlflowClient(f"sqlite:///{Path('mlflow.db').absolute()}")


def runs(look: MlflowClient) -> list[Run]:
    """All runs of the experiment, the oldest first."""
    experiment = look.get_experiment_by_name("tests")
    assert experiment is not None
    return list(
        look.search_runs([experiment.experiment_id], order_by=["attributes.start_time"], run_view_type=ViewType.ALL)
    )


def steps(look: MlflowClient, run_id: str, name: str) -> list[int]:
    """The steps of every stored value of a metric."""
    return sorted(metric.step for metric in look.get_metric_history(run_id, name))


def request_is_open(server: socket.socket) -> bool:
    """Whether the first client of a server that never answers still waits for its answer."""
    connection, _ = server.accept()
    with connection:
        connection.setblocking(False)
        try:
            while data := connection.recv(1 << 16):
                assert data  # the request itself
        except BlockingIOError:
            return True
    return False  # the client has closed the connection


def picture() -> Figure:
    """Any figure."""
    figure = Figure()
    figure.subplots().plot([1, 2, 3])
    return figure


def test_a_run_is_recorded_whole(place: Path) -> None:
    """Recipe, parameters, tags, curves, files and the end are in MLflow; artifacts lie beside the database."""
    model = place / "model"
    (model / "deep").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "deep" / "weights").write_bytes(b"\x00\x01")
    tracker = started()
    for step in range(1, 1501):
        tracker.metrics({"train/loss": 1 / step, "val/a=b (c)/pair_accuracy": float("nan")}, step=step)
    tracker.figure(picture(), "margins.png")
    tracker.artifacts(model, folder="model")
    shutil.rmtree(model)  # what lies outside the run's folder was copied at once
    assert tracker.finish()

    look, run_id = client(), tracker.run_id
    assert run_id is not None
    run = look.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "cell")
    assert run.data.params["optimizer.lr"] == "1e-05"
    assert run.data.params["model.lora"] == "null"
    tags = run.data.tags
    assert (tags["basereward.run_id"], tags["recipe.sha256"]) == (tracker.folder.run_id, "5ha")
    assert {"version.torch", "version.mlflow", "hardware.cpus", "hardware.ram_gib", "hardware.gpus"} <= set(tags)
    assert steps(look, run_id, "train/loss") == list(range(1, 1501))
    assert steps(look, run_id, "val/a_b _c_/pair_accuracy") == list(range(1, 1501))
    assert {m.step: m.value for m in look.get_metric_history(run_id, "train/loss")}[4] == 0.25
    assert Path(look.download_artifacts(run_id, "recipe.yaml")).read_text() == "name: cell\n"
    assert Path(look.download_artifacts(run_id, "figures/margins.png")).read_bytes().startswith(b"\x89PNG")
    assert Path(look.download_artifacts(run_id, "model/deep/weights")).read_bytes() == b"\x00\x01"
    assert (place / "mlartifacts" / "tests" / run_id / "artifacts" / "figures" / "margins.png").is_file()
    assert list((tracker.folder.path / "outbox" / "files").iterdir()) == []
    assert not (place / "mlruns").exists()
    assert deliver_pending() == {}


def test_the_commit_is_recorded_and_whether_the_checkout_was_changed(place: Path) -> None:
    """In a checkout the tags name the commit, and tell a clean one from a changed one."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    (place / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    clean = started()
    (place / "file").write_text("2")
    changed = started()
    assert clean.finish()
    assert changed.finish()
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    tags = [run.data.tags for run in runs(client())]
    assert [(run_tags["git.commit"], run_tags["git.dirty"]) for run_tags in tags] == [(head, "false"), (head, "true")]
    assert tags[0]["mlflow.source.git.commit"] == head


def test_runs_of_a_sweep_are_children_of_its_run(place: Path) -> None:
    """A child names the parent's folder, and MLflow shows it below the parent's run."""
    sweep = Tracker(RunFolder.create("grid", recipe_sha256="", name="sweep", kind="sweep"))
    sweep.start(experiment="tests")
    child = started(create(parent=sweep.folder.run_id))
    assert child.finish()
    assert sweep.finish("failed")
    look = client()
    assert look.get_run(str(child.run_id)).data.tags["mlflow.parentRunId"] == sweep.run_id
    assert look.get_run(str(sweep.run_id)).info.status == "FAILED"


def test_a_child_does_not_wait_for_ever_for_a_parent_that_is_not_known_yet(place: Path) -> None:
    """While MLflow has no run of a live parent the child ends in time; later both are there, one below the other."""
    sweep = RunFolder.create("grid", recipe_sha256="", name="sweep", kind="sweep")
    at_work = sweep.journal
    assert at_work.acquire()  # a process that has not come to its record yet
    child = started(create(parent=sweep.run_id))
    assert child.finish(limit_s=0.5) is False  # it returns; without its limit this test would never end
    at_work.release()
    tracker = Tracker(sweep)
    tracker.start(experiment="tests")
    assert tracker.finish()
    for folder in (child.folder, sweep):
        folder.mark("finished")
    assert deliver_pending() == {child.folder.run_id: True}
    assert client().get_run(str(child.run_id)).data.tags["mlflow.parentRunId"] == tracker.run_id


def test_a_parent_that_was_killed_before_it_was_known_is_made_by_its_child(place: Path) -> None:
    """The parent's journal is there and nobody delivers it: the child does as much of it as it needs."""
    sweep = RunFolder.create("grid", recipe_sha256="", name="sweep", kind="sweep")
    tracker = Tracker(sweep)
    tracker.start(experiment="tests")
    assert tracker.finish()
    (sweep.path / "outbox" / "delivered.json").unlink()
    child = started(create(parent=sweep.run_id))
    assert child.finish()
    assert client().get_run(str(child.run_id)).data.tags["mlflow.parentRunId"] == tracker.run_id == sweep.mlflow_run_id


def test_a_resumed_run_goes_on_with_the_same_record(place: Path) -> None:
    """Steps that come again after the last checkpoint are stored once; the run is running again until it finishes."""
    first = started()
    for step in range(10):
        first.metrics({"train/loss": 1.0}, step=step)
    assert first.finish("killed")
    look, run_id = client(), str(first.run_id)
    assert look.get_run(run_id).info.status == "KILLED"
    second = Tracker(first.folder)
    second.start(Recipe(name="cell"), experiment="ignored")
    assert look.get_run(run_id).info.status == "RUNNING"
    for step in range(6, 15):
        second.metrics({"train/loss": 1.0}, step=step)
    assert second.finish()
    assert second.run_id == run_id
    assert steps(look, run_id, "train/loss") == list(range(15))
    assert len(runs(look)) == 1


def test_a_run_that_was_killed_is_delivered_by_the_next_command(place: Path) -> None:
    """After SIGKILL, `deliver_pending` brings every record and marks the run as killed in both places, once."""
    program = """
import os, signal
from basereward.recipe.schema import Recipe
from basereward.runs.run_folder import RunFolder
from basereward.runs.tracking.tracker import Tracker
from basereward.runs.tracking import mlflow_store
from basereward.runs.tracking import tracker as tracking
from basereward.runs.tracking import upload_worker as worker
worker.INTERVAL_S = 1000.0  # nothing more is delivered once the run is known
run = RunFolder.create("name: cell", recipe_sha256="5ha", name="cell")
tracker = Tracker(run)
tracker.start(Recipe(), experiment="tests")
for step in range(200):
    tracker.metrics({"train/loss": 1.0}, step=step)
(run.path / "lost.jsonl").write_text("lost")
tracker.artifact(run.rejections)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ours = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    killed = subprocess.run([sys.executable, "-c", program], check=False, env=ours)
    assert killed.returncode == -signal.SIGKILL
    folder = next(RunFolder(path) for path in Path("runs").iterdir())
    look = client()
    assert len(steps(look, str(folder.mlflow_run_id), "train/loss")) < 200
    with folder.journal.file.open("ab") as journal:
        journal.write(b'{"kind": "metr')  # a record that the kill cut off
    assert deliver_pending() == {folder.run_id: True}
    assert deliver_pending() == {}
    run_id = str(folder.mlflow_run_id)
    assert steps(look, run_id, "train/loss") == list(range(200))
    assert Path(look.download_artifacts(run_id, "lost.jsonl")).read_text() == "lost"
    assert look.get_run(run_id).info.status == "KILLED"
    assert folder.status["state"] == "killed"


def test_a_run_at_work_is_left_alone(place: Path) -> None:
    """`deliver_pending` does not touch a live run, and a second process cannot record into it."""
    tracker = started()
    assert deliver_pending() == {}
    with pytest.raises(RunError, match="Another process"):
        Tracker(tracker.folder).start(experiment="tests")
    assert tracker.finish()


@pytest.mark.parametrize("fault", ["after", "before"])
def test_a_crash_between_delivery_and_its_note_repeats_nothing(place: Path, fault: str) -> None:
    """Delivered but not yet noted: the batch goes again, and MLflow has every value once, and one run."""
    tracker = started()
    for step in range(50):
        tracker.metrics({"train/loss": step / 7}, step=step)
    assert tracker.finish()
    noted = tracker.folder.journal.folder / "delivered.json"
    if fault == "before":
        noted.unlink()  # the run was made, and nothing noted
    else:
        noted.write_text(f'{{"run_id": "{tracker.run_id}", "parent_named": true, "position": 0}}')
    tracker.folder.mark("finished")
    assert deliver_pending() == {tracker.folder.run_id: True}
    look = client()
    assert [run.info.run_id for run in runs(look)] == [tracker.run_id]
    assert steps(look, str(tracker.run_id), "train/loss") == list(range(50))


def test_a_deleted_experiment_is_an_error_before_training(place: Path) -> None:
    """MLflow answers, and will not take the run: the error says what to do, and nothing is left to be delivered."""
    assert started().finish()
    look = client()
    experiment = look.get_experiment_by_name("tests")
    assert experiment is not None
    look.delete_experiment(experiment.experiment_id)
    folder = create()
    with pytest.raises(RunError, match="mlflow experiments restore"):
        Tracker(folder).start(experiment="tests")
    folder.mark("failed")
    assert deliver_pending() == {}


def test_what_mlflow_refuses_is_set_aside_and_the_rest_goes_on(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A parameter that changes its value and a file that is gone do not hold up what comes after them."""
    tracker = started()
    tracker.params({"optimizer": {"lr": 1.0}})
    tracker.artifact(tracker.folder.path / "never-there")
    tracker.metrics({"train/loss": 1.0}, step=1)
    assert tracker.finish()
    look, run_id = client(), str(tracker.run_id)
    assert look.get_run(run_id).data.params["optimizer.lr"] == "1e-05"
    assert steps(look, run_id, "train/loss") == [1]
    assert "refuses" in caplog.text
    assert len((tracker.folder.path / "outbox" / "refused.jsonl").read_text().splitlines()) == 2


def test_a_full_disk_loses_no_record(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that cannot be written stay in memory and are written with the next ones; training is not disturbed."""
    tracker = started()
    write = RunJournal.append

    def full(self: RunJournal, records: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunJournal, "append", full)
    tracker.metrics({"train/loss": 1.0}, step=1)
    monkeypatch.setattr(RunJournal, "append", write)
    tracker.metrics({"train/loss": 1.0}, step=2)
    assert tracker.finish()
    assert steps(client(), str(tracker.run_id), "train/loss") == [1, 2]


def test_a_server_that_never_answers_holds_nothing_up(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Connections are taken and nothing comes back: records cost no time, and the end comes after the limit."""
    monkeypatch.setattr(tracking, "START_WAIT_S", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3600")  # longer than any test
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracker = started(uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        for step in range(500):
            tracker.metrics({"train/loss": 1.0}, step=step)
        # All of it happened while the first request was still open: no call waits for the server's answer.
        assert tracker.finish(limit_s=0.5) is False
        assert request_is_open(silent)
    recorded = [record for record, _ in tracker.folder.journal.read(0) if record["kind"] == "metrics"]
    assert [record["step"] for record in recorded] == list(range(500))
    assert str(tracker.folder.path / "outbox") in caplog.text


def test_a_model_is_fetched_from_mlflow_when_the_run_is_not_here(place: Path) -> None:
    """With another folder of runs, `resolve_model` brings the model by MLflow's id and by ours, and asks once."""
    tracker = started()
    tracker.folder.model.mkdir()
    (tracker.folder.model / "config.json").write_text("{}")
    tracker.artifacts(tracker.folder.model, folder="model")
    assert tracker.finish()
    for name in (f"runs:/{tracker.run_id}/model", tracker.folder.run_id):
        folder = resolve_model(name, root=place / "elsewhere")
        assert (folder / "config.json").read_text() == "{}"
        assert folder.is_relative_to(place / "elsewhere")
    assert resolve_model(f"runs:/{tracker.run_id}") == tracker.folder.model
    with pytest.raises(RunError, match="MLflow at sqlite"):
        resolve_model("runs:/0123456789abcdef0123456789abcdef", root=place / "elsewhere")
    assert not [path for path in (place / "elsewhere" / "downloads").iterdir() if path.name.startswith(".")]


def test_a_server_down_at_start_and_killed_in_mid_run_gets_everything_once(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The run goes on without it; when it is back all is there, each (name, step) once; what is left over follows."""
    monkeypatch.chdir(server.folder)
    tracker = started(uri=server.uri)
    assert tracker.run_id is None
    assert caplog.text.count("does not answer") == 1
    for step in range(100):
        tracker.metrics({"train/loss": 1.0, "time/step_s": 0.1}, step=step)

    server.start()
    tracker.figure(picture(), "margins")
    for _ in range(3000):  # minutes: a limit for a broken uploader, not for a slow machine
        if tracker.run_id is not None and not tracker.folder.journal.pending:
            break
        time.sleep(0.1)
    assert tracker.run_id is not None

    stop = 100
    for step in range(100, 1000):
        tracker.metrics({"train/loss": 1.0, "time/step_s": 0.1}, step=step)
        if step == 500:
            server.kill()  # while records are on their way
        time.sleep(0.001)
        stop = step + 1
    assert tracker.finish(limit_s=1.0) is False
    assert "the next `basereward train`" in caplog.text
    tracker.folder.mark("finished")
    assert deliver_pending(limit_s=0.5) == {tracker.folder.run_id: False}

    server.start()
    assert deliver_pending() == {tracker.folder.run_id: True}
    look = MlflowClient(server.uri)
    for name in ("train/loss", "time/step_s"):
        counts = Counter(metric.step for metric in look.get_metric_history(tracker.run_id, name))
        assert counts == dict.fromkeys(range(stop), 1), name
    assert look.get_run(tracker.run_id).info.status == "FINISHED"
    assert Path(look.download_artifacts(tracker.run_id, "figures/margins.png")).read_bytes().startswith(b"\x89PNG")
    assert len(runs(look)) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "custom_model_development"),  # an experiment of an earlier version
        ("genai_development_inferred", "custom_model_development"),
        ("genai_development", "genai_development"),  # somebody has chosen it
    ],
)
def test_an_experiment_is_one_of_training_runs(place: Path, before: str | None, after: str) -> None:
    """MLflow's pages open it on its runs; a new one, and one that is there without a kind. A chosen kind stays."""
    look = client()
    if before != "genai_development":
        assert started().finish()
        look.delete_experiment_tag(runs_experiment(look), "mlflow.experimentKind")
    else:
        look.create_experiment("tests", tags={"mlflow.experimentKind": before})
    if before:
        look.set_experiment_tag(runs_experiment(look), "mlflow.experimentKind", before)
    assert started().finish()
    experiment = look.get_experiment_by_name("tests")
    assert experiment is not None
    assert experiment.tags["mlflow.experimentKind"] == after


def runs_experiment(look: MlflowClient) -> str:
    """The id of the experiment `tests`."""
    experiment = look.get_experiment_by_name("tests")
    assert experiment is not None
    return str(experiment.experiment_id)


@pytest.mark.parametrize("password", ["very-secret", "very@sec/ret", "very%40secret"])
def test_a_password_in_the_address_is_in_no_file_and_no_message(
    place: Path, password: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server is away, so the address is in the journal and in the warning: without user and password. The next
    delivery, which reads the journal, uses them again."""
    monkeypatch.setattr(tracking, "START_WAIT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        host = f"127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{password}@{host}")
    tracker = started()
    tracker.params({"note": f"http://me:{password}@{host}"})
    assert tracker.finish(limit_s=0.2) is False
    journal = tracker.folder.journal.file.read_text()
    assert f"http://{host}" in journal
    for text in (journal, caplog.text, *[file.read_text() for file in tracker.folder.path.rglob("*.json*")]):
        assert password not in text
        assert "secret" not in text
        assert "sec/ret" not in text
    start = tracker.folder.journal.start()
    assert start is not None
    assert mlflow_store._whole_address(start["uri"]) == f"http://me:{password}@{host}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    assert mlflow_store._whole_address(start["uri"]) == f"http://me:{password}@{host}"  # this process remembers it
    assert mlflow_store._whole_address("http://elsewhere") == "http://elsewhere"


def test_a_secret_in_the_query_of_the_address_is_refused_before_anything_is_made(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The address stands in the journal of every run, so it holds none; the message does not tell it either."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9/x?token=hunter2hunter2")
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(Path(__file__).parents[3] / "experiments"))
    assert main(["train", "basereward", *SMALL]) == 2
    printed = capsys.readouterr().err
    assert "?token=***" in printed
    assert "hunter2" not in printed
    assert not Path("runs").exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert main(["check", "basereward", *SMALL, "tracking.uri=http://127.0.0.1:9/x?token=hunter2hunter2"]) == 2
    assert "hunter2" not in capsys.readouterr().out


@pytest.mark.parametrize("uri", ["file:mlruns", "file:///tmp/mlruns", "./mlruns", "mlruns"])
def test_a_store_of_files_is_refused_once_and_before_anything_is_made(
    place: Path, uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One message, with what to set in its place; no run is begun."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(Path(__file__).parents[3] / "experiments"))
    assert main(["train", "basereward", *SMALL]) == 2
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    assert uri in printed
    assert "sqlite:///mlflow.db" in printed
    assert not Path("runs").exists()


@pytest.mark.parametrize("uri", ["weird://x", "htp://localhost:5000", "http://", "https:///x"])
def test_an_address_of_no_store_is_refused_before_anything_is_made(uri: str) -> None:
    """Not after a training, by a request that nobody answers."""
    with pytest.raises(RunError, match="MLFLOW_TRACKING_URI"):
        check_store(uri)
