"""Test a trained model on a benchmark: scores equal to `load(model).score`, one score per answer, and resuming."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

from basereward import load, load_recipe
from basereward.cli import main
from basereward.errors import DataError
from basereward.evaluation import run_benchmark
from basereward.evaluation.benchmark import load_benchmark
from basereward.evaluation.scoring import bundles, score_items
from basereward.evaluation.suite import evaluate_suite
from basereward.runs.run_folder import find
from basereward.training.fit import train
from tests.helpers.benchmark_rows import ANY_SIZE, small_benchmark
from tests.helpers.forked_command import ForkedCommand
from tests.helpers.forked_program import ForkedProgram
from tests.helpers.suites import pictures_benchmark
from tests.helpers.support import SMALL

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Return the folder that all tests of this module share."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Train a model that reads pictures and write a benchmark, once for all tests of this module."""
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
    """Return the parsed output of `basereward eval --json`."""
    assert main(["eval", *arguments, "--benchmark", "vl_rewardbench", "data=data/rows.json", *ANY_SIZE, "--json"]) == 0
    output: dict[str, Any] = json.loads(capsys.readouterr().out)
    return output


def test_scores_equal_the_model_scores(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every row has the scores of `load(model).score`; margins and the accuracy follow from them."""
    run = (here / "run").read_text()
    result = evaluated(capsys, here, run)
    folder = Path(result["evaluations"][0]["out"])
    assert folder == find(run).path / "evaluations" / "vl_rewardbench"
    rows = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    items = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    benchmark_rows = json.loads((here / "data" / "rows.json").read_text())
    model = load(run)
    right = 0
    for row, item, benchmark_row in zip(rows, items, benchmark_rows, strict=True):
        expected = model.score(
            benchmark_row["query"], benchmark_row["response"], images=[here / "data" / benchmark_row["image"]]
        )
        assert row["scores"] == pytest.approx(expected, abs=1e-5)
        winner = benchmark_row["human_ranking"].index(0)
        assert item["margin"] == row["scores"][winner] - row["scores"][1 - winner]
        right += item["margin"] > 0
    assert result["vl_rewardbench"]["official"]["overall"]["numerator"] == right
    assert [item["picture"] is not None for item in items if item["correct"] is False] == [True] * (30 - right)


def test_scores_file_of_an_evaluation_gives_the_same_measures(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--scores` with the `scores.jsonl` of an evaluation reproduces its measures."""
    by_model = evaluated(capsys, here, (here / "run").read_text())
    file = Path(by_model["evaluations"][0]["out"]) / "scores.jsonl"
    by_file = evaluated(capsys, here, "--scores", str(file), "--name", "again")
    assert by_file["vl_rewardbench"] == by_model["vl_rewardbench"]


def test_measures_are_logged_to_the_mlflow_run_of_the_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MLflow has every measure under eval/ and the files of the evaluation, and the run stays finished."""
    run = (here / "run").read_text()
    result = evaluated(capsys, here, run)
    client = mlflow.MlflowClient(f"sqlite:///{here}/mlflow.db")
    mlflow_run = client.get_run(str(find(run).mlflow_run_id))
    assert mlflow_run.info.status == "FINISHED"
    value = result["vl_rewardbench"]["official"]["macro"]["value"]
    assert mlflow_run.data.metrics["eval/vl_rewardbench/official/macro"] == pytest.approx(value)
    names = {artifact.path for artifact in client.list_artifacts(mlflow_run.info.run_id, "evaluations/vl_rewardbench")}
    assert {Path(name).name for name in names} == {"evaluation.json", "items.jsonl", "scores.jsonl"}


def test_report_is_logged_to_the_mlflow_run_of_the_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page, its figures and its numbers are artifacts of the model's run."""
    run = (here / "run").read_text()
    out = evaluated(capsys, here, run)["evaluations"][0]["out"]
    assert main(["report", out, "--out", "page.html"]) == 0
    assert "evaluations: 1; page: page.html" in capsys.readouterr().out
    client = mlflow.MlflowClient(f"sqlite:///{here}/mlflow.db")
    names = {Path(artifact.path).name for artifact in client.list_artifacts(str(find(run).mlflow_run_id), "report")}
    assert {"page.html", "numbers.csv"} < names
    assert any(name.endswith(".png") for name in names)


def test_repeated_answers_are_scored_once(here: Path) -> None:
    """Rows with the same prompt and picture form one bundle of distinct answers: 30 rows have 20 prompts and 50
    distinct answers of 60."""
    items = load_benchmark("vl_rewardbench", overrides=["data=data/rows.json"]).items
    assert len({(item.prompt, item.images) for item in items}) == 20
    all_bundles = bundles(items)
    assert len(all_bundles) == 20
    assert sum(len(bundle.responses) for bundle in all_bundles) == 50
    for bundle in all_bundles:
        for row, places in bundle.places.items():
            assert [bundle.responses[place] for place in places] == list(items[row].responses)


def test_killed_evaluation_resumes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a SIGKILL while scoring, the next call reuses every score in the journal and computes the others."""
    run = (here / "run").read_text()
    uninterrupted = evaluated(capsys, here, run, "--out", "whole")
    journal = here / "killed" / "vl_rewardbench" / "partial.jsonl"
    command = ["eval", run, "--benchmark", "vl_rewardbench", "data=data/rows.json", *ANY_SIZE, "--out", "killed"]
    process = ForkedCommand(*command, new_group=True)
    while not journal.exists() or journal.read_text().count("\n") < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (journal.parent / "evaluation.json").exists()
    lines = journal.read_text().splitlines()
    marked = json.loads(lines[1])
    marked["scores"] = [1000.0 + score for score in marked["scores"]]  # differs from a newly computed score
    journal.write_text("\n".join([lines[0], json.dumps(marked), *lines[2:]]) + '\n{"prompt": 19, "sco')
    resumed_result = evaluated(capsys, here, run, "--out", "killed")
    before, after = (
        [json.loads(line) for line in (Path(result["evaluations"][0]["out"]) / "scores.jsonl").read_text().splitlines()]
        for result in (uninterrupted, resumed_result)
    )
    marked_rows = set(
        bundles(load_benchmark("vl_rewardbench", overrides=["data=data/rows.json"]).items)[marked["prompt"]].places
    )
    for expected, resumed in zip(before, after, strict=True):
        shift = 1000.0 if expected["row"] in marked_rows else 0.0
        assert resumed["scores"] == pytest.approx([shift + score for score in expected["scores"]], abs=1e-4)
    assert not journal.exists()


def test_item_without_its_picture_is_refused_or_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the item without its picture; with --allow-partial the evaluation counts 29 of 30 scored
    items."""
    picture = here / "data" / "images" / "5.png"
    content = picture.read_bytes()
    picture.unlink()
    try:
        run = (here / "run").read_text()
        arguments = ["eval", run, "--benchmark", "vl_rewardbench", "data=data/rows.json", *ANY_SIZE, "--out", "part"]
        assert main(arguments) == 2
        assert "mathverse-5" in capsys.readouterr().err
        result = evaluated(capsys, here, run, "--out", "part", "--allow-partial")
        assert result["evaluations"][0]["scored"] == 29
    finally:
        picture.write_bytes(content)


def test_scores_that_are_not_finite_are_refused(here: Path) -> None:
    """The error names the row, and the journal has no score."""
    model = load((here / "run").read_text())
    with torch.no_grad():
        next(model.model.head.parameters()).fill_(float("nan"))
    benchmark = load_benchmark("vl_rewardbench", overrides=["data=data/rows.json"])
    journal = here / "nan" / "partial.jsonl"
    with pytest.raises(DataError, match=r"not finite: row 0 \('wildvision-0'\)"):
        score_items(model, benchmark.items, images=benchmark.store, journal=journal, header={})
    assert journal.read_text() == "{}\n"


def test_failure_of_a_later_benchmark_keeps_earlier_scores(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The journal of the first benchmark remains until all benchmarks are done, and the next call reuses all its
    scores."""
    run = (here / "run").read_text()
    experiments = here / "mine"
    experiments.mkdir()
    yaml = (ROOT / "experiments" / "benchmarks" / "vl_rewardbench.yaml").read_text().split("expected_items")[0]
    for name in ("one", "two"):
        (experiments / f"{name}.yaml").write_text(yaml)
    small_benchmark(here / "second", rows=6)
    picture = here / "second" / "images" / "5.png"
    content = picture.read_bytes()
    picture.unlink()
    benchmarks = [f"mine/{name}.yaml" for name in ("one", "two")]
    overrides = ["mine/one.yaml.data=data/rows.json", "mine/two.yaml.data=second/rows.json"]
    arguments = ["eval", run, "--benchmark", benchmarks[0], "--benchmark", benchmarks[1], *overrides, "--out", "both"]
    assert main(arguments) == 2
    capsys.readouterr()
    journal = here / "both" / "one" / "partial.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    marked = [lines[0], *({**line, "scores": [1000.0 + old for old in line["scores"]]} for line in lines[1:])]
    journal.write_text("".join(json.dumps(line) + "\n" for line in marked))
    picture.write_bytes(content)
    assert main(arguments) == 0
    rows = [json.loads(line) for line in (journal.parent / "scores.jsonl").read_text().splitlines()]
    assert all(score > 500 for row in rows for score in row["scores"])
    assert not journal.exists()


def test_own_pairs_are_scored_like_a_benchmark(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pairs with pictures have the scores of `load(model).score`, and the measures are in the model's MLflow run."""
    run = (here / "run").read_text()
    benchmark_rows = json.loads((here / "data" / "rows.json").read_text())[:8]
    rows = [
        {"prompt": row["query"], "chosen": row["response"][0], "rejected": row["response"][1], "images": [row["image"]]}
        for row in benchmark_rows
    ]
    (here / "data" / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["eval", run, "--data", "data/mine.jsonl", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    model = load(run)
    expected = [
        model.score(row["prompt"], [row["chosen"], row["rejected"]], images=[here / "data" / row["images"][0]])
        for row in rows
    ]
    file = Path(result["evaluations"][0]["out"]) / "scores.jsonl"
    scores = [json.loads(line)["scores"] for line in file.read_text().splitlines()]
    assert scores == [pytest.approx(row_scores, abs=1e-5) for row_scores in expected]
    overall = result["pairs-mine"]["pairs"]["overall"]
    assert (overall["numerator"], overall["denominator"]) == (sum(chosen > rejected for chosen, rejected in scores), 8)
    mlflow_run = mlflow.MlflowClient(f"sqlite:///{here}/mlflow.db").get_run(str(find(run).mlflow_run_id))
    assert mlflow_run.data.metrics["eval/pairs-mine/pairs/overall"] == pytest.approx(overall["value"])


def test_partial_measures_have_their_own_metric_names(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Measures of 30 of 1,250 items go to eval_partial/ in MLflow and never to the metrics of whole benchmarks."""
    run = (here / "run").read_text()
    client = mlflow.MlflowClient(f"sqlite:///{here}/mlflow.db")
    arguments = [run, "--benchmark", "vl_rewardbench", "data=data/rows.json", "--allow-partial", "--out", "in_part"]
    evaluated(capsys, here, run)
    before = client.get_run(str(find(run).mlflow_run_id)).data.metrics
    assert main(["eval", *arguments]) == 0
    after = client.get_run(str(find(run).mlflow_run_id)).data.metrics
    assert after["eval_partial/vl_rewardbench/official/overall"] == before["eval/vl_rewardbench/official/overall"]

    def points(head: str) -> int:
        name = f"{head}/vl_rewardbench/official/overall"
        return len(client.get_metric_history(str(find(run).mlflow_run_id), name))

    whole, partial = points("eval"), points("eval_partial")
    # The same command again finds its own evaluation, as after a kill.
    assert main(["eval", *arguments]) == 0
    assert (points("eval"), points("eval_partial")) == (whole, partial)
    shutil.rmtree("in_part")
    assert main(["eval", *arguments]) == 0
    assert (points("eval"), points("eval_partial")) == (whole, partial + 1)


@pytest.fixture
def suite(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a suite of two benchmarks that the model can read and one with videos."""
    own = here / "own"
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(own))
    if not own.exists():
        pictures_benchmark(own, "first", here / "suite_1", rows=9)
        pictures_benchmark(own, "second", here / "suite_2", rows=12)
        pictures_benchmark(own, "videos", here / "suite_3", rows=3, unscored="videos in prompts")
    return own


KILLED = """
kill_at(Moment("basereward.evaluation.run_benchmark:write_evaluation", call=2))
from basereward.cli import main
main(sys.argv[1:])
"""


def test_killed_suite_resumes(here: Path, suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a SIGKILL between the scores of the second benchmark and its evaluation, the next call reads the first
    evaluation and the scores of the second, and gives the measures of single evaluations."""
    run = (here / "run").read_text()
    process = ForkedProgram("tests.helpers.killed_process", KILLED, "eval", run, "--suite", "mine", "--out", "suite")
    process.stdin.write("\n")
    process.stdin.flush()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    finished = here / "suite" / "first" / "evaluation.json"
    assert finished.exists()
    assert not (here / "suite" / "second" / "evaluation.json").exists()
    written_ns = finished.stat().st_mtime_ns
    journal = here / "suite" / "second" / "partial.jsonl"
    head, *lines = [json.loads(line) for line in journal.read_text().splitlines()]
    # Scores that differ from newly computed ones.
    marked = [{**line, "scores": [1000.0 + score for score in line["scores"]]} for line in lines]
    journal.write_text("".join(json.dumps(line) + "\n" for line in [head, *marked]))
    assert main(["eval", run, "--suite", "mine", "--out", "suite", "--json"]) == 0
    resumed = json.loads(capsys.readouterr().out)
    assert finished.stat().st_mtime_ns == written_ns
    rows = [json.loads(line) for line in (here / "suite" / "second" / "scores.jsonl").read_text().splitlines()]
    assert all(score > 500 for row in rows for score in row["scores"])
    assert "videos in prompts" in resumed["suite"]["absent"]["videos"]
    for name in ("first", "second"):
        assert main(["eval", run, "--benchmark", name, "--out", "single", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[name] == resumed[name]


def test_finished_suite_is_read_unless_something_changed(
    here: Path, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second call loads no model and gives the same table. A changed row is scored again."""
    run = (here / "run").read_text()
    first = evaluate_suite(run, "mine", out="finished")

    def refuse(*arguments: Any) -> Any:
        raise AssertionError("the model is loaded")

    with monkeypatch.context() as patched:
        patched.setattr(run_benchmark, "_opened", refuse)
        assert evaluate_suite(run, "mine", out="finished") == first
        file = here / "suite_1" / "rows.json"
        content = file.read_text()
        file.write_text(content.replace("How many", "What number"))
        with pytest.raises(AssertionError, match="loaded"):
            evaluate_suite(run, "mine", out="finished")
        file.write_text(content)


def test_average_of_a_whole_suite_is_logged_to_mlflow(here: Path, suite: Path) -> None:
    """A benchmark that cannot be measured: no metric. Without it, the average is one, once for two calls."""
    run = (here / "run").read_text()
    client = mlflow.MlflowClient(f"sqlite:///{here}/mlflow.db")
    run_id = str(find(run).mlflow_run_id)
    evaluate_suite(run, "mine")
    assert "eval/suite/mine" not in client.get_run(run_id).data.metrics
    file = suite / "benchmarks" / "videos.yaml"
    content = file.read_text()
    file.unlink()
    for _ in range(2):
        table = evaluate_suite(run, "mine")["suite"]
    file.write_text(content)
    history = client.get_metric_history(run_id, "eval/suite/mine")
    assert [point.value for point in history] == [pytest.approx(table["averages"][0]["value"])]
    assert "suite-mine.json" in {Path(entry.path).name for entry in client.list_artifacts(run_id, "evaluations")}


def test_benchmark_with_videos_is_refused_for_a_model(
    here: Path, suite: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says what cannot be read and how outcomes are counted; a rule is measured all the same."""
    assert main(["eval", (here / "run").read_text(), "--benchmark", "videos"]) == 2
    message = capsys.readouterr().err
    assert "videos in prompts" in message
    assert "--scores" in message
    assert main(["eval", "longer", "--benchmark", "videos"]) == 0
    assert "videos in prompts" in capsys.readouterr().out
