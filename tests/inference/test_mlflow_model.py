"""A model in MLflow's registry: opened, served, evaluated and loaded, with the scores of the saved model."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import requests
from mlflow.metrics import MetricValue, make_metric

import basereward
from basereward.inference.scorer import Scorer, load_scorer
from basereward.recipe.schema import Recipe
from basereward.runs.run_folder import RunFolder
from basereward.runs.tracking.tracker import Tracker
from tests.helpers.scoring_server import wait_until_ready
from tests.helpers.served_model import save_scored_model
from tests.helpers.servers import ROOT
from tests.helpers.support import picture

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Logged:
    """A registered model.

    Attributes:
        uri: of the store.
        run_id: of MLflow.
        scorer: the saved model.
    """

    uri: str
    run_id: str
    scorer: Scorer

    def expected(self, rows: list[dict[str, Any]]) -> list[dict[str, list[float]]]:
        """Return what the model predicts for rows."""
        scores = self.scorer.score_rows([row | {"images": _decoded(row.get("images"))} for row in rows])
        return [{"scores": of_row} for of_row in scores]


def _decoded(images: list[str] | None) -> list[bytes] | None:
    return None if images is None else [base64.b64decode(image.rpartition(",")[2]) for image in images]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Logged]:
    """Log a small Qwen2.5-VL as the model of a run, and register it as `rewards`, version 1."""
    folder = tmp_path_factory.mktemp("logged")
    shutil.copy(empty_store, folder / "mlflow.db")
    saved = save_scored_model(folder, head="mlp")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BASEREWARD_RUNS", str(folder / "runs"))
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        run = RunFolder.create("name: cell\n", recipe_sha256="5ha", name="cell", parent=None)
        shutil.copytree(saved, run.model)
        tracker = Tracker(run)
        tracker.start(Recipe(name="cell"), experiment="tests")
        tracker.model("model", step=1)
        tracker.model_files("model", run.model, step=1)
        assert tracker.finish()
        run.mark("finished")
        assert mlflow.register_model(f"runs:/{tracker.run_id}/model", "rewards").version in (1, "1")
        yield Logged(uri, str(tracker.run_id), load_scorer(saved))


@pytest.fixture(autouse=True)
def here(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the store of the module. The folders of runs are those of each test, so that nothing is found locally."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", logged.uri)


def image(index: int, *, uri: bool) -> str:
    """Return a picture in base64, or as a data URI."""
    content = io.BytesIO()
    picture(index).save(content, "PNG")
    text = base64.b64encode(content.getvalue()).decode()
    return f"data:image/png;base64,{text}" if uri else text


def some_rows() -> list[dict[str, Any]]:
    """Return rows with texts and messages as prompts, none to two images and one to four responses."""
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which digit?"}]},
    ]
    return [
        {"prompt": "What is 2 + 2?", "responses": ["4", "5", "It is 22."]},
        {"prompt": turns, "responses": ["7", "8"], "images": [image(1, uri=True)]},
        {"prompt": "Which is larger?", "responses": ["a", "b", "", "d"], "images": [image(2, uri=False),
         image(3, uri=True)]},
        {"prompt": "Alone", "responses": ["one answer"]},
    ]  # fmt: skip


def test_registered_model_opens_and_predicts(logged: Logged) -> None:
    """`mlflow.pyfunc` gives the scores of the saved model, has a signature and an example that it can score, and `load`
    opens the same version."""
    model = mlflow.pyfunc.load_model("models:/rewards/1")
    rows = some_rows()
    expected = logged.expected(rows)
    for given in (rows, pd.DataFrame(rows)):
        for scores, wanted in zip(model.predict(given), expected, strict=True):
            assert scores["scores"] == pytest.approx(wanted["scores"], rel=0, abs=1e-5)
    assert model.metadata.signature.outputs.input_names() == ["scores"]
    example = model.input_example
    assert [len(row["scores"]) for row in model.predict(example)] == [2]
    loaded = basereward.load("models:/rewards/1")
    assert loaded.score_rows(rows[:1])[0] == pytest.approx(expected[0]["scores"], rel=0, abs=1e-5)
    assert basereward.from_pretrained("models:/rewards/1").scores == {"mean": 0.5, "std": 2.0}


def test_registered_model_reads_every_column(logged: Logged) -> None:
    """MLflow drops columns that the signature lacks before the model sees them; none that changes a score is among
    them."""
    model = mlflow.pyfunc.load_model("models:/rewards/1")
    first, second = (image(number, uri=True) for number in (1, 2))
    plain: dict[str, Any] = {"prompt": "What is it?", "responses": ["7", "8"]}
    score = logged.scorer.score
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "What is it?"}]
    cases: list[tuple[dict[str, Any], list[float]]] = [
        ({"videos": [[first, second]]}, score("What is it?", ["7", "8"], videos=[[first, second]])),
        ({"video": [first, second]}, score("What is it?", ["7", "8"], videos=[[first, second]])),
        ({"image": first}, score("What is it?", ["7", "8"], images=[first])),
        (
            {"response_images": [[first], [second]]},
            score("What is it?", ["7", "8"], response_images=[[first], [second]]),
        ),
        ({"system": "Be short."}, score(turns, ["7", "8"])),
    ]
    without = score("What is it?", ["7", "8"])
    for columns, expected in cases:
        assert expected != pytest.approx(without, abs=1e-4)
        for given in ([plain | columns], pd.DataFrame([plain | columns])):
            [predicted] = model.predict(given)
            assert predicted["scores"] == pytest.approx(expected, rel=0, abs=1e-5), list(columns)


def test_registered_model_is_served(logged: Logged, tmp_path: Path) -> None:
    """A process of `mlflow models serve` answers with the scores of the saved model, in every form of a request; a
    malformed row, and one that names a file of the server, get a status of the client's fault or an error and no
    scores."""
    picture(0).save(tmp_path / "0.png")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", "models:/rewards/1"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    log = (tmp_path / "log").open("wb")
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    # MLflow starts `uvicorn` by its name, which is found only beside the interpreter when no environment is activated.
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": paths, "PATH": programs, "MLFLOW_DISABLE_TELEMETRY": "true"}
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(f"{address}/ping", server, log=tmp_path / "log")
        rows = some_rows()
        expected = logged.expected(rows)
        columns = list(dict.fromkeys(key for row in rows for key in row))
        table = {"columns": columns, "data": [[row.get(column) for column in columns] for row in rows]}
        for body in ({"dataframe_records": rows}, {"dataframe_split": table}, {"inputs": rows}):
            answer = requests.post(f"{address}/invocations", json=body, timeout=60)
            assert answer.status_code == 200, answer.text
            for scores, wanted in zip(answer.json()["predictions"], expected, strict=True):
                assert scores["scores"] == pytest.approx(wanted["scores"], rel=0, abs=1e-5)
        for wrong in (
            {"prompt": "a"},
            {"prompt": "a", "responses": []},
            {"prompt": "a", "responses": ["b"], "images": [str(tmp_path / "0.png")]},
        ):
            answer = requests.post(f"{address}/invocations", json={"dataframe_records": [wrong]}, timeout=60)
            assert answer.status_code >= 400
            assert "predictions" not in answer.json()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        log.close()


def test_registered_model_is_evaluated(logged: Logged) -> None:
    """`mlflow.models.evaluate` gives a metric over the scores the value of arithmetic by hand."""
    rows = [
        {"prompt": f"Question {index}", "responses": [f"yes {index}", "no", f"maybe {index} or so"], "best": index % 3}
        for index in range(12)
    ]
    scores = logged.scorer.score_rows([{"prompt": row["prompt"], "responses": row["responses"]} for row in rows])
    wins = sum(of_row.index(max(of_row)) == row["best"] for of_row, row in zip(scores, rows, strict=True))

    def is_best_first(predictions: pd.Series, targets: pd.Series) -> MetricValue:
        hits = [float(of_row.index(max(of_row)) == best) for of_row, best in zip(predictions, targets, strict=True)]
        return MetricValue(scores=hits, aggregate_results={"mean": sum(hits) / len(hits)})

    metric = make_metric(eval_fn=is_best_first, greater_is_better=True, name="accuracy")
    # The experiment of the run, whose artifacts lie beside its store, and not in the working folder.
    mlflow.set_experiment("tests")
    with mlflow.start_run():
        result = mlflow.models.evaluate(
            "models:/rewards/1", pd.DataFrame(rows), targets="best", predictions="scores", extra_metrics=[metric]
        )
    assert result.metrics["accuracy/mean"] == pytest.approx(wins / len(rows))
    table = result.tables["eval_results_table"]
    for of_row, wanted in zip(table["scores"], scores, strict=True):
        of_row = json.loads(of_row) if isinstance(of_row, str) else of_row
        assert of_row == pytest.approx(wanted, rel=0, abs=1e-5)
