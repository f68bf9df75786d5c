"""A trained model on a benchmark: the same scores as everywhere, each answer once, going on after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

from basereward import load, load_recipe
from basereward.cli import main
from basereward.errors import DataError
from basereward.evaluation.benchmark import load_benchmark
from basereward.evaluation.scoring import bundles, score_items
from basereward.runs.run_folder import find
from basereward.training.fit import train
from tests.helpers.benchmark_rows import ANY_SIZE, small_benchmark
from tests.helpers.support import SMALL

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that reads pictures, and a benchmark."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same runs and store for all tests of this file."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("BASEREWARD_RUNS", str(place / "runs"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
    if not (place / "data").exists():
        small_benchmark(place / "data", rows=30)
        result = train(load_recipe("basereward", overrides=[*SMALL, "trainer.steps=1", "batch.tokens=256"]))
        (place / "run").write_text(result["run_id"])
    return place


def evaluated(capsys: pytest.CaptureFixture[str], here: Path, *arguments: str) -> dict[str, Any]:
    """What `basereward eval --json` prints."""
    assert main(["eval", *arguments, "--benchmark", "vl_rewardbench", "data=data/rows.json", *ANY_SIZE, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_scores_are_those_of_the_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Row by row what `load(model).score` gives; correct and margins follow from them."""
    run = (here / "run").read_text()
    result = evaluated(capsys, here, run)
    folder = Path(result["evaluations"][0]["out"])
    assert folder == find(run).path / "evaluations" / "vl_rewardbench"
    rows = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    lines = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    stored = json.loads((here / "data" / "rows.json").read_text())
    model = load(run)
    right = 0
    for row, item, asked in zip(rows, lines, stored, strict=True):
        alone = model.score(asked["query"], asked["response"], images=[here / "data" / asked["image"]])
        assert row["scores"] == pytest.approx(alone, abs=1e-5)
        winner = asked["human_ranking"].index(0)
        assert item["margin"] == row["scores"][winner] - row["scores"][1 - winner]
        right += item["margin"] > 0
    assert result["vl_rewardbench"]["official"]["overall"]["numerator"] == right
    assert [item["picture"] is not None for item in lines if item["correct"] is False] == [True] * (30 - right)


def test_its_own_scores_give_the_same_tables(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`scores.jsonl` is a file for --scores."""
    by_model = evaluated(capsys, here, (here / "run").read_text())
    file = Path(by_model["evaluations"][0]["out"]) / "scores.jsonl"
    by_file = evaluated(capsys, here, "--scores", str(file), "--name", "again")
    assert by_file["vl_rewardbench"] == by_model["vl_rewardbench"]


def test_the_numbers_are_in_the_models_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MLflow has every measure under eval/, and the files; the run stays finished."""
    run = (here / "run").read_text()
    result = evaluated(capsys, here, run)
    client = mlflow.MlflowClient(f"sqlite:///{here}/mlflow.db")
    found = client.get_run(str(find(run).mlflow_run_id))
    assert found.info.status == "FINISHED"
    value = result["vl_rewardbench"]["official"]["macro"]["value"]
    assert found.data.metrics["eval/vl_rewardbench/official/macro"] == pytest.approx(value)
    names = {each.path for each in client.list_artifacts(found.info.run_id, "evaluations/vl_rewardbench")}
    assert {Path(name).name for name in names} == {"evaluation.json", "items.jsonl", "scores.jsonl"}


def test_a_report_is_in_the_run_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page, its figures and its numbers, as artifacts of the model's run."""
    run = (here / "run").read_text()
    out = evaluated(capsys, here, run)["evaluations"][0]["out"]
    assert main(["report", out, "--out", "page.html"]) == 0
    assert "evaluations: 1; page: page.html" in capsys.readouterr().out
    client = mlflow.MlflowClient(f"sqlite:///{here}/mlflow.db")
    names = {Path(each.path).name for each in client.list_artifacts(str(find(run).mlflow_run_id), "report")}
    assert {"page.html", "numbers.csv"} < names
    assert any(name.endswith(".png") for name in names)


def test_an_answer_is_scored_once(here: Path) -> None:
    """Rows of one prompt and picture are one group of distinct answers: 30 rows, 20 prompts, 50 answers of 60."""
    items = load_benchmark("vl_rewardbench", overrides=["data=data/rows.json"]).items
    assert len({(item.prompt, item.images) for item in items}) == 20
    found = bundles(items)
    assert len(found) == 20
    assert sum(len(bundle.responses) for bundle in found) == 50
    for bundle in found:
        for row, places in bundle.places.items():
            assert [bundle.responses[place] for place in places] == list(items[row].responses)


def test_a_killed_evaluation_goes_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL while it scores: the next call keeps every score that is there, to the bit, and adds the others."""
    run = (here / "run").read_text()
    whole = evaluated(capsys, here, run, "--out", "whole")
    journal = here / "killed" / "vl_rewardbench" / "partial.jsonl"
    command = [sys.executable, "-m", "basereward", "eval", run, "--benchmark", "vl_rewardbench", "data=data/rows.json"]
    command += ANY_SIZE
    with subprocess.Popen(
        [*command, "--out", "killed"], env=dict(os.environ), start_new_session=True, stdout=subprocess.DEVNULL
    ) as process:
        for _ in range(6000):
            if journal.exists() and journal.read_text().count("\n") >= 3:
                break
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (journal.parent / "evaluation.json").exists()
    lines = journal.read_text().splitlines()
    marked = json.loads(lines[1])
    marked["scores"] = [1000.0 + score for score in marked["scores"]]  # to be told from a score made anew
    journal.write_text("\n".join([lines[0], json.dumps(marked), *lines[2:]]) + '\n{"prompt": 19, "sco')
    again = evaluated(capsys, here, run, "--out", "killed")
    before, after = (
        [json.loads(line) for line in (Path(r["evaluations"][0]["out"]) / "scores.jsonl").read_text().splitlines()]
        for r in (whole, again)
    )
    kept = set(
        bundles(load_benchmark("vl_rewardbench", overrides=["data=data/rows.json"]).items)[marked["prompt"]].places
    )
    for one, other in zip(before, after, strict=True):
        shift = 1000.0 if one["row"] in kept else 0.0
        assert other["scores"] == pytest.approx([shift + score for score in one["scores"]], abs=1e-4)
    assert not journal.exists()


def test_an_item_that_cannot_be_scored_stops_or_is_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without its picture an item is named; with --allow-partial the tables say how many there are."""
    picture = here / "data" / "images" / "5.png"
    kept = picture.read_bytes()
    picture.unlink()
    try:
        run = (here / "run").read_text()
        arguments = ["eval", run, "--benchmark", "vl_rewardbench", "data=data/rows.json", *ANY_SIZE, "--out", "part"]
        assert main(arguments) == 2
        assert "mathverse-5" in capsys.readouterr().err
        result = evaluated(capsys, here, run, "--out", "part", "--allow-partial")
        assert result["evaluations"][0]["scored"] == 29
    finally:
        picture.write_bytes(kept)


def test_scores_that_are_not_finite_are_named(here: Path) -> None:
    """Before they are kept anywhere."""
    model = load((here / "run").read_text())
    with torch.no_grad():
        next(model.model.head.parameters()).fill_(float("nan"))
    benchmark = load_benchmark("vl_rewardbench", overrides=["data=data/rows.json"])
    journal = here / "nan" / "partial.jsonl"
    with pytest.raises(DataError, match=r"not finite: row 0 \('wildvision-0'\)"):
        score_items(model, benchmark.items, images=benchmark.store, journal=journal, header={})
    assert journal.read_text() == "{}\n"


def test_a_later_benchmark_that_fails_costs_no_scores(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The journal of the first stays until all are done, and the next call scores nothing of it again."""
    run = (here / "run").read_text()
    experiments = here / "mine"
    experiments.mkdir()
    yaml = (ROOT / "experiments" / "benchmarks" / "vl_rewardbench.yaml").read_text().split("expected_items")[0]
    for name in ("one", "two"):
        (experiments / f"{name}.yaml").write_text(yaml)
    small_benchmark(here / "second", rows=6)
    picture = here / "second" / "images" / "5.png"
    kept = picture.read_bytes()
    picture.unlink()
    named = [f"mine/{name}.yaml" for name in ("one", "two")]
    where = ["mine/one.yaml.data=data/rows.json", "mine/two.yaml.data=second/rows.json"]
    arguments = ["eval", run, "--benchmark", named[0], "--benchmark", named[1], *where, "--out", "both"]
    assert main(arguments) == 2
    capsys.readouterr()
    journal = here / "both" / "one" / "partial.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    marked = [lines[0], *({**line, "scores": [1000.0 + s for s in line["scores"]]} for line in lines[1:])]
    journal.write_text("".join(json.dumps(line) + "\n" for line in marked))
    picture.write_bytes(kept)
    assert main(arguments) == 0
    rows = [json.loads(line) for line in (journal.parent / "scores.jsonl").read_text().splitlines()]
    assert all(score > 500 for row in rows for score in row["scores"])
    assert not journal.exists()


def test_pairs_of_one_s_own_are_scored_like_everything(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With their pictures: row by row what `load(model).score` gives, and the numbers are in the model's run."""
    run = (here / "run").read_text()
    stored = json.loads((here / "data" / "rows.json").read_text())[:8]
    rows = [
        {"prompt": row["query"], "chosen": row["response"][0], "rejected": row["response"][1], "images": [row["image"]]}
        for row in stored
    ]
    (here / "data" / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["eval", run, "--data", "data/mine.jsonl", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    model = load(run)
    alone = [
        model.score(row["prompt"], [row["chosen"], row["rejected"]], images=[here / "data" / row["images"][0]])
        for row in rows
    ]
    file = Path(result["evaluations"][0]["out"]) / "scores.jsonl"
    kept = [json.loads(line)["scores"] for line in file.read_text().splitlines()]
    assert kept == [pytest.approx(each, abs=1e-5) for each in alone]
    overall = result["pairs-mine"]["pairs"]["overall"]
    assert (overall["numerator"], overall["denominator"]) == (sum(a > b for a, b in kept), 8)
    found = mlflow.MlflowClient(f"sqlite:///{here}/mlflow.db").get_run(str(find(run).mlflow_run_id))
    assert found.data.metrics["eval/pairs-mine/pairs/overall"] == pytest.approx(overall["value"])


def test_the_numbers_of_a_part_have_names_of_their_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In MLflow no curve of whole benchmarks gets a value of 30 of 1,250 items."""
    run = (here / "run").read_text()
    client = mlflow.MlflowClient(f"sqlite:///{here}/mlflow.db")
    arguments = [run, "--benchmark", "vl_rewardbench", "data=data/rows.json", "--allow-partial", "--out", "in_part"]
    evaluated(capsys, here, run)
    before = client.get_run(str(find(run).mlflow_run_id)).data.metrics
    assert main(["eval", *arguments]) == 0
    after = client.get_run(str(find(run).mlflow_run_id)).data.metrics
    assert after["eval_partial/vl_rewardbench/official/overall"] == before["eval/vl_rewardbench/official/overall"]
    histories = [
        len(client.get_metric_history(str(find(run).mlflow_run_id), f"{head}/vl_rewardbench/official/overall"))
        for head in ("eval", "eval_partial")
    ]
    assert main(["eval", *arguments]) == 0
    again = [
        len(client.get_metric_history(str(find(run).mlflow_run_id), f"{head}/vl_rewardbench/official/overall"))
        for head in ("eval", "eval_partial")
    ]
    assert again[0] == histories[0]
    assert again[1] > histories[1]
