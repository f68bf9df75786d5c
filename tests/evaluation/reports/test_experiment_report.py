"""Test the report page of an experiment: numbers against hand arithmetic, unfinished runs, output paths and MLflow."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main
from basereward.evaluation.reports.experiment.index import make_index
from basereward.evaluation.reports.experiment.make import make_page
from basereward.recipe import load_experiment, names, recipe_sha256
from basereward.runs.locks import unlock_run
from basereward.runs.run_folder import RunFolder
from basereward.runs.tracking.tracker import Tracker
from basereward.sweeps.sweep import _sweep_folder
from tests.helpers.experiment_runs import finished_run, pairs, written_recipe

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
GRID = {"optimizer.lr": {"high": 1e-3, "low": 1e-4}}
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write an experiments folder with `rates`, whose grid has two recipes with two seeds, and link the project's
    profile."""
    folder = tmp_path / "experiments"
    folder.mkdir()
    for name in ("basereward.yaml", "sources", "profiles", "published"):
        (folder / name).symlink_to(ROOT / "experiments" / name)
    written_recipe(folder, "rates", {"include": "basereward", "grid": GRID, "seeds": [0, 1]})
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def train_all(name: str, *, leave: int = 0) -> list[RunFolder]:
    """Write finished runs of all cells but the last `leave`; 30, 32, 20 and 24 of 40 digits pairs and 5 of 10 numbers
    pairs are right."""
    cells = load_experiment(name).cells
    right = (30, 32, 20, 24)
    return [
        finished_run(cell, groups=[*pairs(number, 40), *pairs(5, 10, source="numbers")])
        for cell, number in list(zip(cells, right, strict=False))[: len(cells) - leave]
    ]


def text_of(document: str) -> str:
    """Return the text of an HTML document without tags."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", document)))


def section(out: Path, name: str) -> str:
    """Return the text of one section of the page."""
    match = re.search(rf'<section id="{name}">(.*?)</section>', out.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert match, name
    return text_of(match[1])


def rows_of_index(index: str, name: str) -> list[str]:
    """Return the texts after the name in the rows of an index that begin with a name."""
    rows = re.findall(rf"<tr><th scope=\"row\"><a[^>]*>{name}</a>.*?</th>(.*?)</tr>", Path(index).read_text())
    return [text_of(row).strip() for row in rows]


def rows_of(path: str) -> list[dict[str, str]]:
    """Read a CSV file."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_accuracy_by_source_and_over_seeds(experiments: Path, tmp_path: Path) -> None:
    """The page has the mean, the standard deviation and the interval of 35 and 37 right pairs of 50; the longer answer
    is right in half of them. 35 groups are right in both runs, 2 in one run and 13 in none, so the interval is 0.72 -+
    0.124."""
    train_all("rates")
    page = make_page("rates", profile="tiny", overrides=(), out=tmp_path / "page.html").as_dict()
    rows = {(row["variant"], row["model"]): row for row in rows_of(page["csv"])}
    high = rows["shared", "lr=high"]
    assert float(high["value"]) == pytest.approx((35 / 50 + 37 / 50) / 2)
    half_width = 1.96 * (35 * 0.28**2 + 2 * 0.22**2 + 13 * 0.72**2) ** 0.5 / 50
    assert (float(high["low"]), float(high["high"])) == pytest.approx((0.72 - half_width, 0.72 + half_width), abs=0.02)
    assert (high["metric"], high["interval"]) == ("pair accuracy", "bootstrap")
    assert f"{statistics.stdev([0.70, 0.74]):.4f}" in high["note"]
    assert float(rows["digits", "lr=low,seed=1"]["value"]) == 24 / 40
    assert float(rows["numbers", "lr=low"]["value"]) == 5 / 10
    # The chosen answer is longer in the first 25 pairs and as long in the others: 25 + 25 / 2 of 50.
    assert float(rows["shared", "longer answer"]["value"]) == 37.5 / 50
    results = section(Path(page["out"]), "results")
    assert "72.0 ± 2.8" in results
    assert "70.0 (35 / 50) · 74.0 (37 / 50)" in results
    assert "right pairs in per cent, of the 50 in 50 groups that all of these were tested on" in results
    assert "lr=high beats lr=low by 18.0 points" in results


def test_runs_tested_on_different_data_are_not_compared(
    experiments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recipes with different test data share no column, and the index does not prefer a recipe with easier data."""
    for cell in load_experiment("rates").cells:
        easy = "lr=low" in cell.name
        finished_run(cell, groups=pairs(10, 10, source="numbers") if easy else pairs(30, 40))
    page = make_page("rates", profile="tiny", overrides=(), out=tmp_path / "page.html").as_dict()
    values = {(row["variant"], row["model"]) for row in rows_of(page["csv"]) if row["source"] == "measured"}
    assert {("shared", "lr=high"), ("digits", "lr=high"), ("numbers", "lr=low")} <= values
    assert not {("shared", "lr=low"), ("digits", "lr=low"), ("numbers", "lr=high")} & values
    results = section(Path(page["out"]), "results")
    assert "lr=low is not compared: no other was tested on its groups" in results
    # The pages of all experiments take seconds; another test makes them.
    only = [entry for entry in names("experiments") if entry.name == "rates"]
    monkeypatch.setattr("basereward.evaluation.reports.experiment.index.names", lambda kind: only)
    index = make_index(tmp_path / "all", profile="tiny", overrides=())["out"]
    (row,) = rows_of_index(index, "rates")
    assert row.startswith("75.0")
    assert row.endswith("lr=high default 4 / 4")


def test_unfinished_runs_are_named(experiments: Path, tmp_path: Path) -> None:
    """The head of the page and the table of runs give the command that finishes them."""
    train_all("rates", leave=1)
    page = make_page("rates", profile="tiny", overrides=["seeds=[0,1]"], out=tmp_path / "page.html").as_dict()
    assert (page["cells"], page["finished"]) == (4, 3)
    command = "basereward sweep rates --profile tiny 'seeds=[0,1]'"
    assert f"Not finished: lr=low,seed=1. To finish them: {command}" in text_of(Path(page["out"]).read_text())
    assert f"lr=low,seed=1 not finished: {command}" in section(Path(page["out"]), "runs")
    assert "1 of 2 seeds finished" in section(Path(page["out"]), "results")


def test_experiment_without_runs_has_a_page(experiments: Path, tmp_path: Path) -> None:
    """The page has no figures, and it lists the settings in which the recipes differ."""
    page = make_page("rates", profile="tiny", overrides=(), out=tmp_path / "page.html").as_dict()
    assert page["finished"] == 0
    assert not page["figures"]
    assert "optimizer.lr" in section(Path(page["out"]), "recipes")
    assert "lr=high 0.001" in section(Path(page["out"]), "recipes")


def test_page_shows_cost_curves_and_bias_of_the_runs(experiments: Path, tmp_path: Path) -> None:
    """The page shows seconds, memory, milliseconds and tokens, and every figure is written as PNG and PDF."""
    train_all("rates")
    page = make_page("rates", profile="tiny", overrides=(), out=tmp_path / "page.html").as_dict()
    assert "lr=high 61 1.75 12.5 15.5 3" in section(Path(page["out"]), "cost")
    assert "lr=high digits 0.125 25.0 \N{EN DASH} \N{EN DASH}" in section(Path(page["out"]), "trust")
    signatures = {Path(file).name: Path(file).read_bytes()[:4] for file in page["figures"]}
    names = ("accuracy", "loss", "validation", "calibration", "length")
    assert signatures == {f"{name}.png": b"\x89PNG" for name in names} | {f"{name}.pdf": b"%PDF" for name in names}


def test_names_in_the_data_are_escaped(experiments: Path, tmp_path: Path) -> None:
    """Markup in a source name is shown as text, and the page's policy forbids scripts and requests."""
    (cell,) = load_experiment("basereward").cells
    finished_run(cell, groups=[*pairs(3, 4, source=EVIL), *pairs(1, 2)])
    out = tmp_path / "page.html"
    make_page("basereward", profile="tiny", overrides=(), out=out)
    document = out.read_text(encoding="utf-8")
    assert EVIL in text_of(document.replace("&lt;", "\N{LEFT ANGLE BRACKET}")).replace("\N{LEFT ANGLE BRACKET}", "<")
    assert "<img src=x" not in document
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in document
    assert "script-src 'sha256-" in document
    assert document.count("<script>") == 1


def test_run_links_to_its_mlflow_page(experiments: Path, tmp_path: Path) -> None:
    """The link has MLflow's run id and the server of the store, or the address of `make ui` for a file store."""
    runs = train_all("rates")
    (runs[0].journal.folder / "delivered.json").write_text(json.dumps({"run_id": "abc123"}))
    out = tmp_path / "page.html"
    make_page("rates", profile="tiny", overrides=(), out=out)
    assert 'href="http://127.0.0.1:5000/#/runs/abc123"' in out.read_text()
    assert out.read_text().count("/#/runs/") == 1
    assert "sqlite:///store.db" in section(out, "runs")


@pytest.mark.usefixtures("ready_store")
def test_page_is_logged_to_the_mlflow_run_of_the_sweep(experiments: Path, tmp_path: Path) -> None:
    """MLflow returns the bytes of the page, its CSV and its figures."""
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    train_all("rates")
    cell_digests = "\n".join(f"{cell.name}: {recipe_sha256(cell.recipe)}" for cell in load_experiment("rates").cells)
    RunFolder.create("other: 0", recipe_sha256="", name="rates", kind="sweep").mark("finished")
    sweep = RunFolder.create(cell_digests, recipe_sha256="", name="rates", kind="sweep")
    tracker = Tracker(sweep)
    tracker.start(experiment="rates", name="rates")
    sweep.mark("finished")
    tracker.finish("finished")
    page = make_page("rates", profile="tiny", overrides=(), out=tmp_path / "page.html").as_dict()
    assert page["run_id"] == sweep.run_id
    assert sweep.mlflow_run_id is not None
    files = {Path(file).name: Path(file) for file in (page["out"], page["csv"], *page["figures"])}
    artifacts = {
        Path(artifact.path).name: artifact.path
        for artifact in MlflowClient().list_artifacts(sweep.mlflow_run_id, "report")
    }
    assert artifacts.keys() == files.keys()
    for name, path in artifacts.items():
        downloaded = Path(
            download_artifacts(run_id=sweep.mlflow_run_id, artifact_path=path, dst_path=str(tmp_path / "got"))
        )
        assert downloaded.read_bytes() == files[name].read_bytes()
    assert sweep.state == "finished"


def test_report_all_makes_every_page_and_an_index(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The index links to the pages, names the best recipe, and lists an unreadable experiment with the reason."""
    train_all("rates")
    written_recipe(experiments, "broken", {"include": "basereward", "optimizer": {"rate": 1}})
    assert main(["report", "all", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["out"] == "reports/index.html"
    index = Path(result["out"]).read_text(encoding="utf-8")
    links = re.findall(r'href="([^"#]+)"', index)
    # Experiments of the package have pages too.
    assert {"tiny/basereward/default/report.html", "tiny/rates/default/report.html"} <= set(links)
    assert all((Path("reports") / link).is_file() for link in links)
    assert "broken" in result["refused"]
    assert "optimizer.rate" in text_of(index)
    (row,) = rows_of_index(result["out"], "rates")
    assert row.startswith("72.0")
    assert row.endswith("lr=high default 4 / 4")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rate"], "unknown experiment 'rate'"),
        (["rates", "folder"], "rates, folder"),
        (["rates", "basereward"], "rates, basereward"),
        (["folder", "optimizer.lr=1"], "optimizer.lr=1"),
        (["folder"], "evaluation.json"),
        (["rates", "--out", "page"], "ends in .html"),
        (["rates", "--out", "no/page.html"], "there is no folder 'no'"),
        (["all", "--out", "page.html"], "give a folder"),
        (["rates", "optimizer.rate=1"], "optimizer.rate"),
    ],
)
def test_invalid_arguments_write_no_page(
    arguments: list[str], message: str, experiments: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command exits with status 2 and a message."""
    (tmp_path / "folder").mkdir()
    assert main(["report", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.html"))


def test_overrides_may_precede_or_follow_options(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Overrides before and after the options apply, as in every command that reads a recipe."""
    assert main(["report", "rates", "seeds=[3]", "--profile", "tiny", "trainer.steps=5", "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (Path(result["out"]).parent.parent, result["cells"]) == (Path("reports/tiny/rates"), 2)
    assert result["overrides"] == ["seeds=[3]", "trainer.steps=5"]
    assert "basereward sweep rates --profile tiny 'seeds=[3]' trainer.steps=5" in text_of(
        Path(result["out"]).read_text()
    )


OTHER = ["trainer.steps=30"]


def finished_under(overrides: list[str], *, leave: int = 0) -> None:
    """Write finished runs of all cells but the last `leave` with these overrides."""
    cells = load_experiment("rates", overrides=overrides).cells
    for cell in cells[: len(cells) - leave]:
        finished_run(cell)


def reported(*arguments: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Run the command with `--json` and return what it printed."""
    assert main(["report", "rates", *arguments, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_newest_complete_sweep_is_reported(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The cells were trained with another number of steps, which nothing records but their recipes: the page is about
    these, and names the incomplete sweep without overrides. Either one can be chosen by name and has a folder of its
    own, and the index links to both pages."""
    finished_under([], leave=1)
    finished_under(OTHER)
    page = reported(capsys=capsys)
    assert (page["overrides"], page["finished"], page["cells"]) == (OTHER, 4, 4)
    assert page["out"] == "reports/tiny/rates/trainer.steps=30/report.html"
    assert [(other["name"], other["finished"], other["cells"]) for other in page["others"]] == [("default", 3, 4)]
    document = text_of(Path(page["out"]).read_text())
    assert "basereward sweep rates --profile tiny trainer.steps=30" in document
    assert page["others"][0]["command"] in document
    default = reported("--sweep", "default", capsys=capsys)
    assert (default["out"], default["finished"]) == ("reports/tiny/rates/default/report.html", 3)
    assert reported(*OTHER, capsys=capsys)["out"] == page["out"]
    assert page["index"] == "reports/tiny/rates/index.html"
    links = re.findall(r'href="([^"#]+)"', Path(page["index"]).read_text())
    assert set(links) == {"trainer.steps=30/report.html", "default/report.html"}


def test_recorded_sweep_is_found_though_its_axes_changed(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep over other learning rates records its overrides, so that its three cells are found as one sweep, also by
    its id. A later sweep with a cell that is not finished does not replace it."""
    overrides = ["grid.optimizer.lr=[1e-2,1e-3,1e-4]", "seeds=[0]", "tracking.uri=sqlite:///a.db"]
    wider = load_experiment("rates", overrides=overrides)
    for cell in wider.cells:
        finished_run(cell)
    sweep = _sweep_folder(wider)
    unlock_run(sweep)
    finished_under(OTHER, leave=1)
    page = reported(capsys=capsys)
    assert (page["overrides"], page["finished"], page["cells"]) == (overrides[:2], 3, 3)
    assert page["others"][0]["name"] == "trainer.steps=30"
    assert reported("--sweep", sweep.run_id, capsys=capsys)["out"] == page["out"]


def test_unknown_sweep_is_answered_with_the_known_ones(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command exits with status 2 and names the sweeps; with overrides or evaluations, `--sweep` is refused."""
    finished_under(OTHER)
    assert main(["report", "rates", "--sweep", "trainer.steps=3"]) == 2
    assert "trainer.steps=30" in capsys.readouterr().err
    assert main(["report", "rates", "trainer.steps=30", "--sweep", "default"]) == 2
    assert main(["report", "all", "--sweep", "default"]) == 2
    assert not list(Path().rglob("*.html"))


def test_page_is_not_replaced_by_an_emptier_one(
    experiments: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page of four finished cells stays when fewer are finished, in the default folder and at a place of the user's;
    a page of as many cells replaces it."""
    runs = train_all("rates")
    own = tmp_path / "own.html"
    for arguments in ((), ("--out", str(own))):
        page = reported(*arguments, capsys=capsys)
        assert (page["finished"], page["kept"]) == (4, None)
    shutil.rmtree(runs[0].path)
    for arguments in ((), ("--out", str(own)), ("--out", str(own), *OTHER)):
        before = Path(page["out"]).read_bytes()
        page = reported(*arguments, capsys=capsys)
        assert page["kept"] == 4
        assert page["finished"] < 4
    assert own.read_bytes() == before
    assert main(["report", "rates"]) == 0
    assert "4 finished cells" in capsys.readouterr().out
    finished_run(load_experiment("rates").cells[0])
    assert reported("--out", str(own), capsys=capsys)["kept"] is None
    assert own.read_bytes() != before


def test_best_recipe_is_first_and_its_header_has_the_origin(experiments: Path, tmp_path: Path) -> None:
    """The second recipe of the grid has more right pairs and is the first row of every table; the head has the date,
    the commit and the overrides."""
    for place, cell in enumerate(load_experiment("rates", overrides=["seeds=[0]"]).cells):
        run = finished_run(cell, groups=pairs(20 + 15 * place, 40))
        start = run.journal.file.read_text().replace('"tags": {}', '"tags": {"git.commit": "0123456789abcdef"}')
        run.journal.file.write_text(start)
    out = tmp_path / "page.html"
    make_page("rates", profile="tiny", overrides=["seeds=[0]"], out=out)
    document = out.read_text(encoding="utf-8")
    head = text_of(document.split("<header", 1)[1].split("</header>")[0])
    assert re.search(r"overrides seeds=\[0\] .*trained \d{4}-\d\d-\d\d .*commit 0123456789 ", head)
    for name in ("results", "cost", "recipes", "runs"):
        names = re.findall(r"lr=(?:low|high)", section(out, name))
        assert names[:1] == ["lr=low"], (name, section(out, name)[:600])
    results = section(out, "results")
    assert "Best: lr=low with 87.5 % of the pairs right" in results
    (alt,) = re.findall(r'alt="(shared pair accuracy[^"]*)"', document)
    assert re.match(r"shared pair accuracy: lr=low 87.5 % \([\d.]+ to [\d.]+\); lr=high 50.0 %", alt)
