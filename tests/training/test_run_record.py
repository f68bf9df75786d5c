"""One run with every logger: MLflow, TensorBoard, W&B, the command line and the report hold the same steps, and the
model is one that MLflow opens and registers."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from basereward import load, load_recipe
from basereward.cli import main
from basereward.errors import BaseRewardError, DataError, RunError
from basereward.evaluation.reports.experiment.gather import _recorded
from basereward.recipe import recipe_sha256
from basereward.runs.run_folder import RunFolder, list_runs
from tests.helpers.support import upload_all

pytestmark = pytest.mark.slow

PROFILE = str(Path(__file__).resolve().parents[1] / "small.yaml")
STEPS = 4
TRAIN = ("train", "basereward", "--profile", PROFILE, f"trainer.steps={STEPS}", "model.head.layers=3")
OTHERS = ("tracking.also=[tensorboard, wandb]", "tracking.system_metrics=0.05")
PROMPT, RESPONSES = "What is 2 + 2?", ["4", "5", "6"]


@dataclass(frozen=True)
class Recorded:
    """A finished run, its store, and the log lines of its training."""

    run: RunFolder
    uri: str
    log: str

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    @property
    def mlflow_run(self) -> Run:
        return self.client.get_run(str(self.run.mlflow_run_id))

    def steps(self, metric: str) -> list[int]:
        """Return the steps of a metric in MLflow, in the order of their record."""
        return [point.step for point in self.client.get_metric_history(self.mlflow_run.info.run_id, metric)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Recorded]:
    """Train once. The environment stays for the tests of the module, whose own comes after it."""
    folder = tmp_path_factory.mktemp("recorded")
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BASEREWARD_RUNS", str(folder / "runs"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        shutil.copy(empty_store, folder / "mlflow.db")
        logger = logging.getLogger("basereward")
        logger.addHandler(handler)
        try:
            assert main([*TRAIN, *OTHERS, "--json"]) == 0
        finally:
            logger.removeHandler(handler)
        (run,) = list_runs()
        upload_all()
        yield Recorded(run, f"sqlite:///{folder / 'mlflow.db'}", "\n".join(lines))


@pytest.fixture
def here(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """The run in the environment of this test."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", recorded.uri)
    return recorded


def tensorboard_steps(run: RunFolder) -> dict[str, list[int]]:
    """Return the steps of every metric in TensorBoard's event file."""
    events = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {name: [point.step for point in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_steps_count_from_one_everywhere(recorded: Recorded) -> None:
    """MLflow, the command line, the report and TensorBoard number the same optimizer steps, the first of which is 1."""
    assert recorded.steps("train/loss") == [1, 2, 3, 4]
    assert recorded.steps("val/pair_accuracy") == [2, 4]
    assert recorded.steps("test/pair_accuracy") == [4]
    assert [int(step) for step in re.findall(r"step (\d+) of 4, \d+ s: train/loss", recorded.log)] == [2, 4]
    curves, _, _ = _recorded(recorded.run)
    assert [step for step, _ in curves["train/loss"]] == [1, 2, 3, 4]
    assert [step for step, _ in curves["val/pair_accuracy"]] == [2, 4]
    steps = tensorboard_steps(recorded.run)
    assert steps["train/loss"] == [1, 2, 3, 4]
    assert steps["val/pair_accuracy"] == [2, 4]


def test_other_loggers_get_every_metric(recorded: Recorded) -> None:
    """TensorBoard has every metric of the journal, at the same steps; W&B has one offline run with our id."""
    journal: dict[str, list[int]] = {}
    for record, _ in recorded.run.journal.read(0):
        for name, value in record["values"].items() if record["kind"] == "metrics" else ():
            if not math.isnan(value):
                journal.setdefault(name, []).append(record["step"])
    assert {"train/lr", "test/pair_accuracy", "time/step_s", "train/best_step"} <= set(journal)
    seen = tensorboard_steps(recorded.run)
    assert {name: seen.get(name) for name in journal} == journal
    offline = list((recorded.run.path / "wandb").glob("offline-run-*"))
    assert [folder.name.endswith(recorded.run.run_id) for folder in offline] == [True]
    (data,) = offline[0].glob("*.wandb")
    content = data.read_bytes()
    assert all(name.encode() in content for name in ("train/loss", "test/pair_accuracy", "system/cpu_utilization"))


def test_system_metrics_are_apart_from_those_of_the_model(recorded: Recorded) -> None:
    """Samples of the machine count from 1, and everything measured of it is under `system/` in MLflow."""
    metrics = recorded.mlflow_run.data.metrics
    samples = recorded.steps("system/cpu_utilization_percentage")
    assert samples == list(range(1, len(samples) + 1))
    assert 0 < metrics["system/system_memory_usage_percentage"] < 100
    assert {"system/time_step_s", "system/mem_peak_gib", "system/perf_mfu"} <= set(metrics)
    assert not [name for name in metrics if name.startswith(("time/", "mem/", "perf/"))]


def test_data_sets_have_their_digests_and_sizes(recorded: Recorded) -> None:
    """Every split of the source is an input, with the digest of the run's identity and its number of groups."""
    content = json.loads(recorded.run.identity.read_text())["data"]["numbers"]
    found = {}
    for item in recorded.mlflow_run.inputs.dataset_inputs:
        context = item.tags[0].value
        found[context] = (item.dataset.name, item.dataset.digest, json.loads(item.dataset.profile)["num_rows"])
    names = {"training": ("train", 40), "validation": ("val", 12), "test": ("test", 12)}
    assert found == {context: ("numbers", content[split][:36], rows) for context, (split, rows) in names.items()}


def test_description_names_the_recipe_and_repeats_it(recorded: Recorded, tmp_path: Path) -> None:
    """The note has the head and the data; the recipe of the artifact, loaded as the note says, is that of the run."""
    note = recorded.mlflow_run.data.tags["mlflow.note.content"]
    assert "`mlp` layers=3" in note
    assert "40 training, 12 validation, 12 test" in note
    assert 'load_recipe("recipe.yaml", profile=None)' in note
    file = recorded.client.download_artifacts(recorded.mlflow_run.info.run_id, "recipe.yaml", str(tmp_path))
    recipe = load_recipe(file, profile=None)
    assert recipe_sha256(recipe) == recorded.run.status["recipe_sha256"]


def test_experiment_is_of_model_training_and_has_a_view(recorded: Recorded) -> None:
    """The experiment has its kind, a description and a view with the columns that compare runs."""
    experiment = recorded.client.get_experiment_by_name("basereward")
    assert experiment is not None
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert "viewStateShareKey=cells" in experiment.tags["mlflow.note.content"]
    state = json.loads(json.loads(experiment.tags["mlflow.sharedViewState.cells"])["state"])
    assert {"metrics.`test/pair_accuracy`", "metrics.`val/pair_accuracy`"} <= set(state["selectedColumns"])


def test_model_scores_through_mlflow(here: Recorded) -> None:
    """The logged model is ready, has a signature and the metrics of the test, and scores as `load` does."""
    run_id = here.mlflow_run.info.run_id
    (output,) = here.mlflow_run.outputs.model_outputs
    logged = here.client.get_logged_model(output.model_id)
    assert (logged.name, str(logged.status)) == ("model", "READY")
    assert "test/pair_accuracy" in {metric.key for metric in logged.metrics}
    model = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")
    names = model.metadata.signature.inputs.input_names()
    assert names[:2] == model.metadata.signature.inputs.required_input_names() == ["prompt", "responses"]
    # MLflow drops every column that is not in the signature, so that a model would score a row without its video.
    assert {"images", "image", "videos", "video", "response_images", "system"} == set(names[2:])
    expected = load(here.run.model).score(PROMPT, RESPONSES)
    turns = [{"role": "user", "content": PROMPT}]
    for prompt in (PROMPT, turns):
        frame = pd.DataFrame({"prompt": [prompt], "responses": [RESPONSES]})
        assert model.predict(frame) == [{"scores": expected}]
    assert len(model.predict(model.input_example)[0]["scores"]) == 2
    with pytest.raises(MlflowException):
        model.predict(pd.DataFrame({"prompt": [PROMPT]}))
    assert not list(here.run.model.rglob("*.pkl"))


def test_model_does_not_open_files_for_a_client(here: Recorded, tmp_path: Path) -> None:
    """A row may come over the network, so neither an image's path nor an image part of a message opens a file."""
    from PIL import Image

    Image.new("RGB", (28, 28)).save(tmp_path / "image.png")
    model = mlflow.pyfunc.load_model(str(here.run.model))
    part = {"type": "image", "image": str(tmp_path / "image.png")}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": PROMPT}]}]
    rows = [
        {"prompt": PROMPT, "responses": RESPONSES, "images": [str(tmp_path / "image.png")]},
        {"prompt": messages, "responses": RESPONSES},
    ]
    for row in rows:
        with pytest.raises(DataError):
            model.predict([row])


def test_registered_model_opens(here: Recorded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The registry takes the model, and `load` opens it by version, by alias and from the run's artifacts."""
    expected = load(here.run.model).score(PROMPT, RESPONSES)
    run_id = here.mlflow_run.info.run_id
    version = mlflow.register_model(f"runs:/{run_id}/model", "numbers").version
    here.client.set_registered_model_alias("numbers", "best", version)
    # Without the local run, everything comes from MLflow.
    monkeypatch.setenv("BASEREWARD_RUNS", str(tmp_path / "elsewhere"))
    for address in (f"models:/numbers/{version}", "models:/numbers@best", f"runs:/{run_id}/model"):
        assert load(address).score(PROMPT, RESPONSES) == expected
    here.client.delete_registered_model("numbers")
    with pytest.raises(RunError):
        load(f"models:/numbers/{version}")
    for address in ("models:/unknown/1", "models:/numbers/9", "models:/numbers@none"):
        with pytest.raises(RunError):
            load(address)
    for address in ("models:/numbers", "models:/../1", "models:/numbers/.."):
        with pytest.raises(BaseRewardError):
            load(address)


def test_model_of_an_earlier_version_opens(here: Recorded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Earlier versions stored the model among the artifacts of its run; `runs:/` opens it too."""
    expected = load(here.run.model).score(PROMPT, RESPONSES)
    folder = tmp_path / "model"
    shutil.copytree(here.run.model, folder)
    (folder / "MLmodel").unlink()
    old = here.client.create_run(here.mlflow_run.info.experiment_id)
    here.client.log_artifacts(old.info.run_id, str(folder), "model")
    monkeypatch.setenv("BASEREWARD_RUNS", str(tmp_path / "elsewhere"))
    assert load(f"runs:/{old.info.run_id}/model").score(PROMPT, RESPONSES) == expected


def test_missing_logger_is_a_fault_before_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A logger whose package is not installed is reported by `check` and by `train`; no run begins."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find_spec(name, *rest)
    )
    for command in (["check", *TRAIN[1:]], list(TRAIN)):
        assert main([*command, "tracking.also=[wandb]"]) == 2
        output = capsys.readouterr()
        assert "basereward[wandb]" in output.out + output.err
    assert list_runs() == []
