"""Records of a run reach MLflow completely and once, despite failures of the server and the run."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

from basereward.cli import main
from basereward.errors import RunError
from basereward.recipe.schema import Recipe
from basereward.runs.resolve_model import resolve_model
from basereward.runs.run_folder import RunFolder
from basereward.runs.tracking import mlflow_store
from basereward.runs.tracking import tracker as tracking
from basereward.runs.tracking import upload_worker as worker
from basereward.runs.tracking.journal import RunJournal
from basereward.runs.tracking.mlflow_store import refusals
from basereward.runs.tracking.mlflow_view import VIEW_TAG
from basereward.runs.tracking.tracker import Tracker, check_store, deliver_pending
from basereward.runs.tracking.uploader import Refused
from tests.helpers.forked_program import run_program
from tests.helpers.servers import EarlierServer, Server
from tests.helpers.support import SMALL

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the intervals between retries."""
    monkeypatch.setattr(worker, "INTERVAL_S", 0.1)
    monkeypatch.setattr(worker, "RETRY_S", (0.1, 0.5))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


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
    """Make a run folder in ./runs."""
    return RunFolder.create("name: cell\n", recipe_sha256="5ha", name=name, parent=parent)


def started(folder: RunFolder | None = None, **arguments: str) -> Tracker:
    """Return a tracker that has started its record."""
    tracker = Tracker(folder or create())
    tracker.start(Recipe(name="cell"), experiment="tests", **arguments)
    return tracker


def client() -> MlflowClient:
    """Return a client of the default store."""
    return MlflowClient(f"sqlite:///{Path('mlflow.db').absolute()}")


def runs(client: MlflowClient) -> list[Run]:
    """Return all runs of the experiment, the oldest first."""
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    return list(
        client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"], run_view_type=ViewType.ALL)
    )


def steps(client: MlflowClient, run_id: str, name: str) -> list[int]:
    """Return the steps of all stored values of a metric."""
    return sorted(metric.step for metric in client.get_metric_history(run_id, name))


def request_is_open(server: socket.socket) -> bool:
    """Return whether the first client of a silent server still waits for its answer."""
    connection, _ = server.accept()
    with connection:
        connection.setblocking(False)
        try:
            while data := connection.recv(1 << 16):
                assert data  # the request itself
        except BlockingIOError:
            return True
    return False  # the client has closed the connection


def wait_for(condition: Callable[[], object]) -> None:
    """Ask again until a condition holds."""
    while not condition():
        time.sleep(0.05)


def test_busy_database_loses_no_record(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another program holds the database until the run has given up: the warning says where the records are, and the
    next call delivers them."""
    tracker = started()
    wait_for(lambda: not tracker.folder.journal.pending)
    with contextlib.closing(sqlite3.connect("mlflow.db", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        for step in range(1, 4):
            tracker.metrics({"train/loss": 1.0 / step}, step=step)
        assert not tracker.finish("finished", limit_s=0.2)
        assert f"They are kept in {tracker.folder.path}" in caplog.text
        holder.execute("ROLLBACK")
    tracker.folder.mark("finished")
    # The thread ends with the request that it was in.
    wait_for(lambda: deliver_pending() or not tracker.folder.journal.pending)
    (run,) = runs(client())
    assert steps(client(), run.info.run_id, "train/loss") == [1, 2, 3]
    assert run.info.status == "FINISHED"
    assert not (tracker.folder.path / "outbox" / "refused.jsonl").exists()


@pytest.mark.parametrize(
    ("message", "final"),
    [
        ("(sqlite3.IntegrityError) UNIQUE constraint failed: latest_metrics.key", False),
        ("QueuePool limit of size 5 overflow 10 reached, connection timed out", False),
        ("(psycopg2.errors.StringDataRightTruncation) value too long", True),
    ],
)
def test_errors_of_a_busy_database_are_repeated(message: str, final: bool) -> None:
    """MLflow gives them the code of a wrong request."""
    with pytest.raises(Refused if final else MlflowException), refusals():
        raise MlflowException(message, error_code=BAD_REQUEST)


def make_figure() -> Figure:
    """Return any figure."""
    figure = Figure()
    figure.subplots().plot([1, 2, 3])
    return figure


def test_run_is_recorded_completely(place: Path) -> None:
    """MLflow has recipe, parameters, tags, metrics, files and the final state; artifacts are beside the database."""
    model = place / "model"
    (model / "deep").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "deep" / "weights").write_bytes(b"\x00\x01")
    tracker = started()
    for step in range(1, 1501):
        tracker.metrics({"train/loss": 1 / step, "val/a=b (c)/pair_accuracy": float("nan")}, step=step)
    tracker.figure(make_figure(), "margins.png")
    tracker.artifacts(model, folder="model")
    shutil.rmtree(model)  # files outside the run folder were copied at once
    assert tracker.finish()

    mlflow_client, run_id = client(), tracker.run_id
    assert run_id is not None
    run = mlflow_client.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "cell")
    assert run.data.params["optimizer.lr"] == "1e-05"
    assert run.data.params["model.lora"] == "null"
    tags = run.data.tags
    assert (tags["basereward.run_id"], tags["recipe.sha256"]) == (tracker.folder.run_id, "5ha")
    assert {"version.torch", "version.mlflow", "hardware.cpus", "hardware.ram_gib", "hardware.gpus"} <= set(tags)
    assert steps(mlflow_client, run_id, "train/loss") == list(range(1, 1501))
    assert steps(mlflow_client, run_id, "val/a_b _c_/pair_accuracy") == list(range(1, 1501))
    assert {m.step: m.value for m in mlflow_client.get_metric_history(run_id, "train/loss")}[4] == 0.25
    assert Path(mlflow_client.download_artifacts(run_id, "recipe.yaml")).read_text() == "name: cell\n"
    assert Path(mlflow_client.download_artifacts(run_id, "figures/margins.png")).read_bytes().startswith(b"\x89PNG")
    assert Path(mlflow_client.download_artifacts(run_id, "model/deep/weights")).read_bytes() == b"\x00\x01"
    assert (place / "mlartifacts" / "tests" / run_id / "artifacts" / "figures" / "margins.png").is_file()
    assert list((tracker.folder.path / "outbox" / "files").iterdir()) == []
    assert not (place / "mlruns").exists()
    assert deliver_pending() == {}


def saved_model(folder: RunFolder) -> None:
    """Write the folder of a model, with a file in a subfolder."""
    (folder.model / "deep").mkdir(parents=True)
    (folder.model / "card.json").write_text("{}")
    (folder.model / "deep" / "weights").write_bytes(b"\x00\x01")


def test_model_is_recorded_once(place: Path) -> None:
    """A model has its files, its parameters and the metrics that were measured on it; a journal that is uploaded again
    makes no second one."""
    tracker = started()
    saved_model(tracker.folder)
    tracker.model("model", step=3, params={"axis.head": "mlp"})
    tracker.metrics({"test/pair_accuracy": 0.75}, step=4, model="model")
    tracker.model_files("model", tracker.folder.model, step=3)
    assert tracker.finish()
    run_id = str(tracker.run_id)
    (tracker.folder.journal.folder / "delivered.json").unlink()
    tracker.folder.mark("finished")
    assert deliver_pending() == {tracker.folder.run_id: True}

    run = client().get_run(run_id)
    (output,) = run.outputs.model_outputs
    model = client().get_logged_model(output.model_id)
    assert (model.name, str(model.status), model.source_run_id, output.step) == ("model", "READY", run_id, 3)
    assert model.params == {"axis.head": "mlp"}
    assert [(metric.key, metric.value, metric.step) for metric in model.metrics] == [("test/pair_accuracy", 0.75, 4)]
    assert run.data.metrics["test/pair_accuracy"] == 0.75
    files = Path(client().download_artifacts(run_id, "model", str(place)))
    assert (files / "deep" / "weights").read_bytes() == b"\x00\x01"
    assert (files / "MLmodel").is_file()
    assert not (tracker.folder.journal.folder / "refused.jsonl").exists()


def test_model_is_an_artifact_on_an_earlier_server(server: Server, place: Path) -> None:
    """A server that has no logged models gets the files below the run, and refuses no record."""
    server.start()
    earlier = EarlierServer(server)
    try:
        tracker = started(uri=earlier.uri)
        saved_model(tracker.folder)
        tracker.model("model", step=3)
        tracker.metrics({"test/pair_accuracy": 0.75}, step=4, model="model")
        tracker.model_files("model", tracker.folder.model, step=3)
        assert tracker.finish(limit_s=60)
    finally:
        earlier.close()
    run_id, mlflow_client = str(tracker.run_id), MlflowClient(server.uri)
    assert mlflow_client.get_run(run_id).data.metrics["test/pair_accuracy"] == 0.75
    assert Path(mlflow_client.download_artifacts(run_id, "model/deep/weights", str(place))).read_bytes() == b"\x00\x01"
    assert not (tracker.folder.journal.folder / "refused.jsonl").exists()


def test_data_sets_are_recorded_once(place: Path) -> None:
    """A data set is an input of its run, also when its record is uploaded twice."""
    data_set = {"name": "digits", "digest": "9f2c", "source_type": "code", "source": "{}", "profile": '{"num_rows": 9}'}
    tracker = started()
    tracker.inputs([data_set | {"context": "training"}])
    assert tracker.finish()
    (tracker.folder.journal.folder / "delivered.json").unlink()
    tracker.folder.mark("finished")
    assert deliver_pending() == {tracker.folder.run_id: True}
    (item,) = client().get_run(str(tracker.run_id)).inputs.dataset_inputs
    assert (item.dataset.name, item.dataset.digest, item.dataset.profile) == ("digits", "9f2c", '{"num_rows": 9}')
    assert {tag.key: tag.value for tag in item.tags} == {"mlflow.data.context": "training"}


class BrokenLogger:
    """Fails at the second call."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, float], int | None]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.calls.append((metrics, step))
        if len(self.calls) > 1:
            raise ConnectionError("away")


def test_broken_logger_does_not_stop_the_record(place: Path) -> None:
    """A logger beside MLflow that fails gets no more metrics; MLflow gets all of them."""
    logger = BrokenLogger()
    tracker = Tracker(create(), loggers=[logger])
    tracker.start(Recipe(name="cell"), experiment="tests")
    for step in (1, 2, 3):
        tracker.metrics({"train/loss": 1 / step}, step=step)
    assert tracker.finish()
    assert [step for _, step in logger.calls] == [1, 2]
    assert steps(client(), str(tracker.run_id), "train/loss") == [1, 2, 3]


def test_view_of_a_person_stays(place: Path) -> None:
    """A sweep's axes replace the view of runs without axes; a view that a person changed stays."""

    def view() -> str:
        experiment = client().get_experiment_by_name("tests")
        assert experiment is not None
        return str(experiment.tags[VIEW_TAG])

    def sweep(axes: list[str]) -> None:
        tracker = Tracker(create())
        tracker.start(experiment="tests", axes=axes, summary="How deep?")
        assert tracker.finish()

    sweep([])
    assert "params" not in view()
    sweep(["axis.head"])
    assert "params.`axis.head`" in view()
    experiment = client().get_experiment_by_name("tests")
    assert experiment is not None
    assert experiment.tags["mlflow.note.content"].startswith("How deep?")
    client().set_experiment_tag(experiment.experiment_id, VIEW_TAG, "mine")
    sweep(["axis.lr"])
    assert view() == "mine"


def test_git_commit_and_state_are_recorded(place: Path) -> None:
    """In a git checkout, tags have the commit and whether files were changed."""
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


def test_runs_of_a_sweep_are_nested(place: Path) -> None:
    """A child names the parent's folder, and MLflow nests it in the parent's run."""
    sweep = Tracker(RunFolder.create("grid", recipe_sha256="", name="sweep", kind="sweep"))
    sweep.start(experiment="tests")
    child = started(create(parent=sweep.folder.run_id))
    assert child.finish()
    assert sweep.finish("failed")
    mlflow_client = client()
    assert mlflow_client.get_run(str(child.run_id)).data.tags["mlflow.parentRunId"] == sweep.run_id
    assert mlflow_client.get_run(str(sweep.run_id)).info.status == "FAILED"


def test_child_does_not_wait_for_an_unknown_parent(place: Path) -> None:
    """While MLflow has no run of the live parent, the child ends within its limit; later both exist, and the child is
    nested."""
    sweep = RunFolder.create("grid", recipe_sha256="", name="sweep", kind="sweep")
    parent_journal = sweep.journal
    assert parent_journal.acquire()  # as a process that has not started its record yet
    child = started(create(parent=sweep.run_id))
    assert child.finish(limit_s=0.5) is False  # it returns; without its limit this test would never end
    parent_journal.release()
    tracker = Tracker(sweep)
    tracker.start(experiment="tests")
    assert tracker.finish()
    for folder in (child.folder, sweep):
        folder.mark("finished")
    assert deliver_pending() == {child.folder.run_id: True}
    assert client().get_run(str(child.run_id)).data.tags["mlflow.parentRunId"] == tracker.run_id


def test_child_creates_the_run_of_a_killed_parent(place: Path) -> None:
    """No process delivers the parent's journal, so the child delivers the part that it needs."""
    sweep = RunFolder.create("grid", recipe_sha256="", name="sweep", kind="sweep")
    tracker = Tracker(sweep)
    tracker.start(experiment="tests")
    assert tracker.finish()
    (sweep.path / "outbox" / "delivered.json").unlink()
    child = started(create(parent=sweep.run_id))
    assert child.finish()
    assert client().get_run(str(child.run_id)).data.tags["mlflow.parentRunId"] == tracker.run_id == sweep.mlflow_run_id


def test_resumed_run_continues_its_record(place: Path) -> None:
    """Steps repeated after the last checkpoint are stored once; the run is RUNNING until it finishes."""
    first = started()
    for step in range(10):
        first.metrics({"train/loss": 1.0}, step=step)
    assert first.finish("killed")
    mlflow_client, run_id = client(), str(first.run_id)
    assert mlflow_client.get_run(run_id).info.status == "KILLED"
    second = Tracker(first.folder)
    second.start(Recipe(name="cell"), experiment="ignored")
    assert mlflow_client.get_run(run_id).info.status == "RUNNING"
    for step in range(6, 15):
        second.metrics({"train/loss": 1.0}, step=step)
    assert second.finish()
    assert second.run_id == run_id
    assert steps(mlflow_client, run_id, "train/loss") == list(range(15))
    assert len(runs(mlflow_client)) == 1


def test_killed_run_is_delivered_by_the_next_command(place: Path) -> None:
    """After SIGKILL, `deliver_pending` sends every record once, and marks the run as killed in MLflow and in its
    folder."""
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
    assert run_program(program)[0] == -signal.SIGKILL
    folder = next(RunFolder(path) for path in Path("runs").iterdir())
    mlflow_client = client()
    assert len(steps(mlflow_client, str(folder.mlflow_run_id), "train/loss")) < 200
    with folder.journal.file.open("ab") as journal:
        journal.write(b'{"kind": "metr')  # a record that the kill cut off
    assert deliver_pending() == {folder.run_id: True}
    assert deliver_pending() == {}
    run_id = str(folder.mlflow_run_id)
    assert steps(mlflow_client, run_id, "train/loss") == list(range(200))
    assert Path(mlflow_client.download_artifacts(run_id, "lost.jsonl")).read_text() == "lost"
    assert mlflow_client.get_run(run_id).info.status == "KILLED"
    assert folder.status["state"] == "killed"


def test_running_run_is_not_delivered(place: Path) -> None:
    """`deliver_pending` skips a live run, and a second process cannot record into it."""
    tracker = started()
    assert deliver_pending() == {}
    with pytest.raises(RunError, match="Another process"):
        Tracker(tracker.folder).start(experiment="tests")
    assert tracker.finish()


@pytest.mark.parametrize("saved", ["after", "before"])
def test_repeated_delivery_stores_values_once(place: Path, saved: str) -> None:
    """After a crash between a delivery and the saved position, the batch is sent again; MLflow has every value once,
    and one run."""
    tracker = started()
    for step in range(50):
        tracker.metrics({"train/loss": step / 7}, step=step)
    assert tracker.finish()
    position_file = tracker.folder.journal.folder / "delivered.json"
    if saved == "before":
        position_file.unlink()  # the run was created, but no position saved
    else:
        position_file.write_text(f'{{"run_id": "{tracker.run_id}", "parent_named": true, "position": 0}}')
    tracker.folder.mark("finished")
    assert deliver_pending() == {tracker.folder.run_id: True}
    mlflow_client = client()
    assert [run.info.run_id for run in runs(mlflow_client)] == [tracker.run_id]
    assert steps(mlflow_client, str(tracker.run_id), "train/loss") == list(range(50))


def test_deleted_experiment_is_an_error(place: Path) -> None:
    """MLflow rejects the run before training: the error says what to do, and nothing is left to deliver."""
    assert started().finish()
    mlflow_client = client()
    experiment = mlflow_client.get_experiment_by_name("tests")
    assert experiment is not None
    mlflow_client.delete_experiment(experiment.experiment_id)
    folder = create()
    with pytest.raises(RunError, match="mlflow experiments restore"):
        Tracker(folder).start(experiment="tests")
    folder.mark("failed")
    assert deliver_pending() == {}


def test_rejected_records_are_set_aside(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A changed parameter and a missing file do not stop later records."""
    tracker = started()
    tracker.params({"optimizer": {"lr": 1.0}})
    tracker.artifact(tracker.folder.path / "never-there")
    tracker.metrics({"train/loss": 1.0}, step=1)
    assert tracker.finish()
    mlflow_client, run_id = client(), str(tracker.run_id)
    assert mlflow_client.get_run(run_id).data.params["optimizer.lr"] == "1e-05"
    assert steps(mlflow_client, run_id, "train/loss") == [1]
    assert "refuses" in caplog.text
    assert len((tracker.folder.path / "outbox" / "refused.jsonl").read_text().splitlines()) == 2


def test_a_full_disk_loses_no_record(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that cannot be written are kept in memory and written with the next ones; training continues."""
    tracker = started()
    write = RunJournal.append

    def raise_disk_full(self: RunJournal, records: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunJournal, "append", raise_disk_full)
    tracker.metrics({"train/loss": 1.0}, step=1)
    monkeypatch.setattr(RunJournal, "append", write)
    tracker.metrics({"train/loss": 1.0}, step=2)
    assert tracker.finish()
    assert steps(client(), str(tracker.run_id), "train/loss") == [1, 2]


def test_silent_server_does_not_block_the_run(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server accepts connections and never answers: recording does not wait, and `finish` returns at its limit."""
    monkeypatch.setattr(tracking, "START_WAIT_S", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3600")  # longer than any test
    with socket.create_server(("127.0.0.1", 0)) as silent_server:
        tracker = started(uri=f"http://127.0.0.1:{silent_server.getsockname()[1]}")
        for step in range(500):
            tracker.metrics({"train/loss": 1.0}, step=step)
        # The first request is still open: no call has waited for the server's answer.
        assert tracker.finish(limit_s=0.5) is False
        assert request_is_open(silent_server)
    recorded = [record for record, _ in tracker.folder.journal.read(0) if record["kind"] == "metrics"]
    assert [record["step"] for record in recorded] == list(range(500))
    assert str(tracker.folder.path / "outbox") in caplog.text


def test_model_of_another_folder_is_downloaded(place: Path) -> None:
    """With another folder of runs, `resolve_model` downloads the model by MLflow's id or by ours."""
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


def test_interrupted_server_gets_every_record_once(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server is down at the start and killed during the run. The run continues, and after a restart every (name,
    step) is stored once."""
    monkeypatch.chdir(server.folder)
    tracker = started(uri=server.uri)
    assert tracker.run_id is None
    assert caplog.text.count("does not answer") == 1
    for step in range(100):
        tracker.metrics({"train/loss": 1.0, "time/step_s": 0.1}, step=step)

    server.start()
    tracker.figure(make_figure(), "margins")
    for _ in range(3000):  # minutes, so that only a broken uploader fails, not a slow machine
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
    mlflow_client = MlflowClient(server.uri)
    # The time of a step stands in the section of the machine.
    for name in ("train/loss", "system/time_step_s"):
        counts = Counter(metric.step for metric in mlflow_client.get_metric_history(tracker.run_id, name))
        assert counts == dict.fromkeys(range(stop), 1), name
    assert mlflow_client.get_run(tracker.run_id).info.status == "FINISHED"
    assert (
        Path(mlflow_client.download_artifacts(tracker.run_id, "figures/margins.png"))
        .read_bytes()
        .startswith(b"\x89PNG")
    )
    assert len(runs(mlflow_client)) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "custom_model_development"),  # an experiment of an earlier version
        ("genai_development_inferred", "custom_model_development"),
        ("genai_development", "genai_development"),  # somebody has chosen it
    ],
)
def test_experiment_has_the_kind_of_training_runs(place: Path, before: str | None, after: str) -> None:
    """MLflow then opens it on its runs. A new experiment, and one without a kind, get the kind; a chosen kind stays."""
    mlflow_client = client()
    if before != "genai_development":
        assert started().finish()
        mlflow_client.delete_experiment_tag(experiment_id(mlflow_client), "mlflow.experimentKind")
    else:
        mlflow_client.create_experiment("tests", tags={"mlflow.experimentKind": before})
    if before:
        mlflow_client.set_experiment_tag(experiment_id(mlflow_client), "mlflow.experimentKind", before)
    assert started().finish()
    experiment = mlflow_client.get_experiment_by_name("tests")
    assert experiment is not None
    assert experiment.tags["mlflow.experimentKind"] == after


def experiment_id(client: MlflowClient) -> str:
    """Return the id of the experiment `tests`."""
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    return str(experiment.experiment_id)


@pytest.mark.parametrize("password", ["very-secret", "very@sec/ret", "very%40secret"])
def test_password_of_the_address_is_not_written(
    place: Path, password: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the server down, journal and warning have the address without user and password. The next delivery, which
    reads the journal, uses them again."""
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


def test_secret_in_the_query_of_the_address_is_an_error(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The address is in the journal of every run, so it must not have a secret; the message does not show it, and no
    run is created."""
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
def test_file_store_is_an_error(
    place: Path, uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fault of one key says what to set instead, and no run is created."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(Path(__file__).parents[3] / "experiments"))
    assert main(["train", "basereward", *SMALL]) == 2
    printed = capsys.readouterr().err
    assert len([line for line in printed.splitlines() if "tracking.uri" in line]) == 1
    assert uri in printed
    assert "sqlite:///mlflow.db" in printed
    assert not Path("runs").exists()


@pytest.mark.parametrize("uri", ["weird://x", "htp://localhost:5000", "http://", "https:///x"])
def test_invalid_store_address_is_an_error(uri: str) -> None:
    """It is reported before training, not by a failed request after it."""
    with pytest.raises(RunError, match="MLFLOW_TRACKING_URI"):
        check_store(uri)
