"""The pages of a real MLflow server in a real browser, after a sweep of seven heads: what a researcher sees first."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from basereward.cli import main
from basereward.recipe import load_cells
from basereward.runs.tracking.mlflow_view import view_address
from tests.helpers.browser import needs_chromium
from tests.helpers.servers import Server
from tests.helpers.support import upload_all

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = [pytest.mark.slow, needs_chromium]

PROFILE = str(Path(__file__).resolve().parents[2] / "small.yaml")
# Probes share one process, so that seven cells take seconds.
SWEEP = ("sweep", "head_depth", "--profile", PROFILE, "probe=true", "optimizer.lr=2e-3")
LABELS = [cell.title for cell in load_cells("head_depth")]
LIMIT_MS = 180_000
"""A page that lacks what a test looks for fails after this; one that has it does not wait."""


@dataclass(frozen=True)
class Site:
    """A running server with one sweep."""

    url: str
    client: MlflowClient
    experiment: str
    sweep: Run
    cells: list[Run]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Site]:
    """Run the sweep, and serve its store as `make ui` does."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(empty_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BASEREWARD_RUNS", str(folder / "runs"))
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        client = MlflowClient(uri)
        assert main([*SWEEP, "--json"]) == 0
        upload_all()
    experiment = client.get_experiment_by_name("head_depth")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    sweep, cells = runs[0], list(runs[1:])
    server = Server(folder, own_pages=True)
    try:
        server.start()
        yield Site(server.uri, client, experiment.experiment_id, sweep, cells)
    finally:
        server.kill()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a browser that has never seen MLflow."""
    # Wide enough for all columns of the view: MLflow draws only those that are in sight.
    context = browser.new_context(viewport={"width": 2400, "height": 1000})
    context.set_default_timeout(LIMIT_MS)
    yield context.new_page()
    context.close()


def wait_for_labels(area: Page | Locator) -> None:
    """Wait until each of the seven labels is visible."""
    for label in LABELS:
        area.get_by_text(label, exact=True).first.wait_for()


def test_sweep_is_recorded_for_comparison(site: Site, tmp_path: Path) -> None:
    """Children are named by their cell and have their axis as tag and parameter; the parent has the metrics of the best
    cell and a table of all cells."""
    assert [run.info.run_name for run in site.cells] == LABELS
    axes = [label.partition("=")[2] for label in LABELS]
    assert [run.data.params["axis.head"] for run in site.cells] == axes
    assert [run.data.tags["axis.head"] for run in site.cells] == axes
    accuracies = [run.data.metrics["test/pair_accuracy"] for run in site.cells]
    best = site.cells[accuracies.index(max(accuracies))]
    assert site.sweep.info.run_name == "head_depth"
    assert site.sweep.data.metrics["test/pair_accuracy"] == max(accuracies)
    assert site.sweep.data.tags["best.cell"] == best.info.run_name
    assert site.sweep.data.tags["best.run_id"] == best.data.tags["basereward.run_id"]
    file = site.client.download_artifacts(site.sweep.info.run_id, "cells.json", str(tmp_path))
    table = json.loads(Path(file).read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["head"] for row in rows] == axes
    assert [row["test/pair_accuracy"] for row in rows] == accuracies
    assert rows[0]["run"] == site.cells[0].data.tags["basereward.run_id"]


def test_repeated_sweep_keeps_one_table_and_its_metrics(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call of the sweep skips every cell, and leaves the record of the first one as it was."""
    folder = Path(site.client.get_run(site.sweep.info.run_id).info.artifact_uri.removeprefix("file://")).parents[3]
    monkeypatch.setenv("BASEREWARD_RUNS", str(folder / "runs"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    assert main([*SWEEP, "--json"]) == 0
    upload_all()
    again = site.client.get_run(site.sweep.info.run_id)
    assert again.data.metrics == site.sweep.data.metrics
    assert again.info.status == "FINISHED"
    assert len(site.client.get_metric_history(site.sweep.info.run_id, "test/pair_accuracy")) == 1
    assert len(site.client.search_runs([site.experiment])) == 1 + len(LABELS)


def test_experiment_opens_on_its_runs(site: Site, page: Page) -> None:
    """In a new browser the address of the experiment leads to its runs, in the pages for model training."""
    page.goto(f"{site.url}/#/experiments/{site.experiment}")
    page.wait_for_url(re.compile(rf"experiments/{site.experiment}/runs"))
    page.get_by_role("link", name="head_depth", exact=True).last.wait_for()
    assert page.get_by_role("heading", name="Runs", exact=True).count() == 1


def test_view_shows_the_cells_and_their_charts(site: Site, page: Page) -> None:
    """The saved view lists the seven cells and not the sweep, and the legends of its charts name them."""
    page.goto(f"{site.url}/{view_address(site.experiment)}")
    wait_for_labels(page)
    charts = page.get_by_test_id("experiment-view-compare-runs-chart-area")
    wait_for_labels(charts)
    table = f"{site.url}/{view_address(site.experiment)}".replace("&compareRunsMode=CHART", "&compareRunsMode=TABLE")
    page.goto("about:blank")
    page.goto(table)
    wait_for_labels(page)
    for column in ("axis.head", "val/pair_accuracy", "test/pair_accuracy"):
        page.get_by_role("columnheader", name=column).first.wait_for()


def test_comparison_names_the_cells(site: Site, page: Page) -> None:
    """The page that compares runs has the seven labels and the axis as its first parameter."""
    runs, experiments = (json.dumps(ids) for ids in ([run.info.run_id for run in site.cells], [site.experiment]))
    page.goto(f"{site.url}/#/compare-runs?runs={runs}&experiments={experiments}")
    wait_for_labels(page)
    page.locator(".parallel-coordinates, .js-plotly-plot").first.get_by_text("axis.head").first.wait_for()


def test_model_page_has_the_signature(site: Site, page: Page) -> None:
    """The page of a cell's model lists the columns that it takes and gives."""
    (output,) = site.client.get_run(site.cells[0].info.run_id).outputs.model_outputs
    page.goto(f"{site.url}/#/experiments/{site.experiment}/models/{output.model_id}/artifacts")
    page.get_by_text("MLmodel", exact=True).click()
    # The page colours the text, so that a line of it is in several elements.
    for text in ("basereward.inference.mlflow_loader", "prompt", "responses", "images", "scores"):
        page.wait_for_function("text => document.body.innerText.includes(text)", arg=text)


def test_run_page_describes_the_run(site: Site, page: Page) -> None:
    """The page of a cell has its description and its data set."""
    page.goto(f"{site.url}/#/experiments/{site.experiment}/runs/{site.cells[3].info.run_id}")
    page.get_by_text("A cell of the sweep").first.wait_for()
    page.get_by_text("numbers").first.wait_for()
