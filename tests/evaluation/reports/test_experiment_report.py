"""The page of an experiment: its numbers against hand arithmetic, what is missing, and where it goes."""

from __future__ import annotations

import csv
import html
import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main
from basereward.evaluation.reports.experiment.index import make_index
from basereward.evaluation.reports.experiment.make import make_page
from basereward.recipe import load_experiment, recipe_sha256
from basereward.runs.run_folder import RunFolder
from basereward.runs.tracking.tracker import Tracker
from tests.helpers.experiment_runs import finished_run, pairs, written_recipe

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
GRID = {"optimizer.lr": {"high": 1e-3, "low": 1e-4}}
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two experiments, of which one has two recipes with two seeds; the profile and the fragments are the project's."""
    folder = tmp_path / "experiments"
    folder.mkdir()
    for name in ("basereward.yaml", "sources", "profiles", "published"):
        (folder / name).symlink_to(ROOT / "experiments" / name)
    written_recipe(folder, "rates", {"include": "basereward", "grid": GRID, "seeds": [0, 1]})
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def train_all(name: str, *, leave: int = 0) -> list[RunFolder]:
    """Runs of all cells but the last few: of 40 pairs of digits 30, 32, 20, 24 are right, of 10 of numbers 5."""
    cells = load_experiment(name).cells
    right = (30, 32, 20, 24)
    return [
        finished_run(cell, groups=[*pairs(number, 40), *pairs(5, 10, source="numbers")])
        for cell, number in list(zip(cells, right, strict=False))[: len(cells) - leave]
    ]


def text_of(document: str) -> str:
    """Its words."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", document)))


def section(out: Path, name: str) -> str:
    """The words of one section."""
    found = re.search(rf'<section id="{name}">(.*?)</section>', out.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert found, name
    return text_of(found[1])


def rows_of(path: str) -> list[dict[str, str]]:
    """A CSV."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_accuracy_is_counted_by_source_and_over_seeds(experiments: Path, tmp_path: Path) -> None:
    """Mean, standard deviation and interval of 35 and 37 of 50 right pairs; longer is right in half of them. By the
    spread of groups, of which 35 are right in both runs, 2 in one and 13 in none, the interval is 0.72 -+ 0.124."""
    train_all("rates")
    made = make_page("rates", profile="tiny", overrides=(), out=tmp_path / "page.html").as_dict()
    rows = {(row["variant"], row["model"]): row for row in rows_of(made["csv"])}
    high = rows["shared", "lr=high"]
    assert float(high["value"]) == pytest.approx((35 / 50 + 37 / 50) / 2)
    half = 1.96 * (35 * 0.28**2 + 2 * 0.22**2 + 13 * 0.72**2) ** 0.5 / 50
    assert (float(high["low"]), float(high["high"])) == pytest.approx((0.72 - half, 0.72 + half), abs=0.02)
    assert (high["metric"], high["interval"]) == ("pair accuracy", "bootstrap")
    assert f"{statistics.stdev([0.70, 0.74]):.4f}" in high["note"]
    assert float(rows["digits", "lr=low,seed=1"]["value"]) == 24 / 40
    assert float(rows["numbers", "lr=low"]["value"]) == 5 / 10
    # The winners of the first half are longer, the others as long: 25 + 25 / 2 of 50.
    assert float(rows["shared", "longer answer"]["value"]) == 37.5 / 50
    told = section(Path(made["out"]), "results")
    assert "72.0 ± 2.8" in told
    assert "70.0 (35 / 50) · 74.0 (37 / 50)" in told
    assert "right pairs in per cent, of the 50 in 50 groups that all of these were tested on" in told
    assert "lr=high beats lr=low by 18.0 points" in told


def test_what_was_tested_on_other_data_is_not_compared(experiments: Path, tmp_path: Path) -> None:
    """Nor shown in one column with what was not, nor the best recipe of the index for easier data."""
    for cell in load_experiment("rates").cells:
        easy = "lr=low" in cell.name
        finished_run(cell, groups=pairs(10, 10, source="numbers") if easy else pairs(30, 40))
    made = make_page("rates", profile="tiny", overrides=(), out=tmp_path / "page.html").as_dict()
    values = {(row["variant"], row["model"]) for row in rows_of(made["csv"]) if row["source"] == "measured"}
    assert {("shared", "lr=high"), ("digits", "lr=high"), ("numbers", "lr=low")} <= values
    assert not {("shared", "lr=low"), ("digits", "lr=low"), ("numbers", "lr=high")} & values
    told = section(Path(made["out"]), "results")
    assert "lr=low is not compared: no other was tested on its groups" in told
    index = make_index(tmp_path / "all", profile="tiny", overrides=())["out"]
    assert "4 / 4 lr=high 75.0" in text_of(Path(index).read_text(encoding="utf-8"))


def test_what_is_not_finished_is_named(experiments: Path, tmp_path: Path) -> None:
    """With the command that finishes it, in the head and beside its name."""
    train_all("rates", leave=1)
    made = make_page("rates", profile="tiny", overrides=["seeds=[0,1]"], out=tmp_path / "page.html").as_dict()
    assert (made["cells"], made["finished"]) == (4, 3)
    command = "basereward sweep rates --profile tiny 'seeds=[0,1]'"
    assert f"Not finished: lr=low,seed=1. To finish them: {command}" in text_of(Path(made["out"]).read_text())
    assert f"lr=low,seed=1 not finished: {command}" in section(Path(made["out"]), "runs")
    assert "1 of 2 seeds finished" in section(Path(made["out"]), "results")


def test_an_experiment_without_runs_has_a_page(experiments: Path, tmp_path: Path) -> None:
    """Nothing is measured, and the recipes still differ in what they differ in."""
    made = make_page("rates", profile="tiny", overrides=(), out=tmp_path / "page.html").as_dict()
    assert made["finished"] == 0
    assert not made["figures"]
    assert "optimizer.lr" in section(Path(made["out"]), "recipes")
    assert "lr=high 0.001" in section(Path(made["out"]), "recipes")


def test_costs_curves_and_bias_are_those_of_the_runs(experiments: Path, tmp_path: Path) -> None:
    """Seconds, memory, milliseconds and tokens; a figure a question, each as PNG and PDF beside the page."""
    train_all("rates")
    made = make_page("rates", profile="tiny", overrides=(), out=tmp_path / "page.html").as_dict()
    assert "lr=high 61 1.75 12.5 15.5 3" in section(Path(made["out"]), "cost")
    assert "lr=high digits 0.125 25.0" in section(Path(made["out"]), "trust")
    kinds = {Path(file).name: Path(file).read_bytes()[:4] for file in made["figures"]}
    names = ("accuracy", "loss", "validation", "calibration", "length")
    assert kinds == {f"{n}.png": b"\x89PNG" for n in names} | {f"{n}.pdf": b"%PDF" for n in names}


def test_text_of_strangers_is_text(experiments: Path, tmp_path: Path) -> None:
    """A name in the data cannot become markup, and the page may run no script and fetch nothing."""
    (cell,) = load_experiment("basereward").cells
    finished_run(cell, groups=[*pairs(3, 4, source=EVIL), *pairs(1, 2)])
    out = tmp_path / "page.html"
    make_page("basereward", profile="tiny", overrides=(), out=out)
    document = out.read_text(encoding="utf-8")
    assert EVIL in text_of(document.replace("&lt;", "\N{LEFT ANGLE BRACKET}")).replace("\N{LEFT ANGLE BRACKET}", "<")
    assert "<img src=x" not in document
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in document
    assert "script-src" not in document


def test_a_run_links_to_its_page_in_mlflow(experiments: Path, tmp_path: Path) -> None:
    """By the id that MLflow gave it, at the server of its store or where `make ui` serves a file."""
    runs = train_all("rates")
    (runs[0].journal.folder / "delivered.json").write_text(json.dumps({"run_id": "abc123"}))
    out = tmp_path / "page.html"
    make_page("rates", profile="tiny", overrides=(), out=out)
    assert 'href="http://127.0.0.1:5000/#/runs/abc123"' in out.read_text()
    assert out.read_text().count("/#/runs/") == 1
    assert "sqlite:///store.db" in section(out, "runs")


def test_the_page_goes_to_the_record_of_the_sweep(experiments: Path, tmp_path: Path) -> None:
    """MLflow gives back the bytes of the page, its numbers and its figures."""
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    train_all("rates")
    grid = "\n".join(f"{cell.name}: {recipe_sha256(cell.recipe)}" for cell in load_experiment("rates").cells)
    RunFolder.create("other: 0", recipe_sha256="", name="rates", kind="sweep").mark("finished")
    sweep = RunFolder.create(grid, recipe_sha256="", name="rates", kind="sweep")
    tracker = Tracker(sweep)
    tracker.start(experiment="rates", name="rates")
    sweep.mark("finished")
    tracker.finish("finished")
    made = make_page("rates", profile="tiny", overrides=(), out=tmp_path / "page.html").as_dict()
    assert made["run_id"] == sweep.run_id
    assert sweep.mlflow_run_id is not None
    files = {Path(file).name: Path(file) for file in (made["out"], made["csv"], *made["figures"])}
    kept = {Path(each.path).name: each.path for each in MlflowClient().list_artifacts(sweep.mlflow_run_id, "report")}
    assert kept.keys() == files.keys()
    for name, path in kept.items():
        found = Path(download_artifacts(run_id=sweep.mlflow_run_id, artifact_path=path, dst_path=str(tmp_path / "got")))
        assert found.read_bytes() == files[name].read_bytes()
    assert sweep.state == "finished"


def test_all_makes_every_page_and_an_index(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Links lead to pages; the best recipe is named; what cannot be read on this profile is there with the reason."""
    train_all("rates")
    written_recipe(experiments, "broken", {"include": "basereward", "optimizer": {"rate": 1}})
    assert main(["report", "all", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["out"] == "reports/index.html"
    index = Path(told["out"]).read_text(encoding="utf-8")
    links = re.findall(r'href="([^"#]+)"', index)
    assert links == ["tiny/basereward.html", "tiny/rates.html"]
    assert all((Path("reports") / link).is_file() for link in links)
    assert "broken" in told["refused"]
    assert "optimizer.rate" in text_of(index)
    assert re.search(r"rates # rates 4 / 4 lr=high 72.0|rates rates 4 / 4 lr=high 72.0", text_of(index))


@pytest.mark.parametrize(
    ("words", "message"),
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
def test_a_mistake_writes_nothing(
    words: list[str], message: str, experiments: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is answered with a sentence, and exit status 2."""
    (tmp_path / "folder").mkdir()
    assert main(["report", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.html"))


def test_changes_may_stand_anywhere(experiments: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before and after the options, as for every command that reads a recipe."""
    assert main(["report", "rates", "seeds=[3]", "--profile", "tiny", "trainer.steps=5", "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (told["out"], told["cells"]) == ("reports/tiny/rates.html", 2)
    assert "basereward sweep rates --profile tiny 'seeds=[3]' trainer.steps=5" in text_of(Path(told["out"]).read_text())


OTHER = ["trainer.steps=30"]


def finished_under(overrides: list[str]) -> None:
    """Runs of all cells under other settings."""
    for cell in load_experiment("rates", overrides=overrides).cells:
        finished_run(cell)


def test_runs_under_other_settings_are_named(
    experiments: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of four cells none is finished, and there are four runs with another number of steps: the page and the command
    say how many and which; with the same change all are there, and nothing is said."""
    finished_under(OTHER)
    out = tmp_path / "page.html"
    assert main(["report", "rates", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "0 of 4 finished" in told
    assert "4 finished runs with trainer.steps=30" in told
    assert "trainer.steps=30" in text_of(out.read_text(encoding="utf-8"))
    assert main(["report", "rates", *OTHER, "--out", str(out), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["finished"], made["others"]) == (4, [])


def test_a_page_with_results_is_not_replaced_by_one_without(experiments: Path, tmp_path: Path) -> None:
    """`report all` under other settings than the page's leaves it and says so; once there is a run, it is made anew."""
    finished_under(OTHER)
    folder = tmp_path / "reports"
    make_index(folder, profile="tiny", overrides=OTHER)
    page = folder / "tiny" / "rates.html"
    before = page.read_bytes()
    made = {each["experiment"]: each for each in make_index(folder, profile="tiny", overrides=[])["pages"]}
    assert made["rates"]["kept"] is True
    assert page.read_bytes() == before
    finished_run(load_experiment("rates").cells[0])
    made = {each["experiment"]: each for each in make_index(folder, profile="tiny", overrides=[])["pages"]}
    assert (made["rates"]["kept"], made["rates"]["finished"]) == (False, 1)
    assert page.read_bytes() != before
