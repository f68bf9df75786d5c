"""Test the ensembles of a sweep: they are tested like cells, built once, and named when they fail."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from basereward import load
from basereward.recipe import Experiment, load_experiment
from basereward.runs.run_folder import find, list_runs
from basereward.runs.score_files import ScoredGroup, read_scores
from basereward.sweeps.results import results
from basereward.sweeps.sweep import sweep
from tests.helpers.support import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_workers")]

ROOT = Path(__file__).parents[2]
TOGETHER = """\
# Two models of all rows and one of text alone, for which every picture is too long, together in four ways.
include: basereward
data:
  sources: {digits: {size: 24, copies: 1, val_size: 12, test_size: 12}}
grid:
  recipe:
    one: {}
    two: {seeds: {init: 1}}
    text:
      data: {sources: {digits: null}, encoding: {min_pixels: 200000, max_pixels: 300000, max_tokens: 120}}
      seeds: {init: 2}
ensembles:
  average: {members: ["*one", "*two"]}
  careful: {how: pessimistic, k: 0.5, members: ["*one", "*two"]}
  routed: {members: ["*one", "*two"], text: ["*text"]}
  mixed: {how: soup, members: ["*one", "*two"]}
"""
BROKEN = """\
# A cell that no training survives, and what depends on it. Probes share one process, which a failed cell ends.
include: basereward
probe: true
grid: {optimizer.lr: {tame: 1e-3, slow: 1e-4, wild: 1e30}}
ensembles: {all: {}, calm: {members: ["*tame", "*slow"]}}
"""
FEW = ["trainer.steps=2", "trainer.validations=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Return the folder of this file's runs."""
    experiments = tmp_path_factory.mktemp("together")
    shutil.copy(empty_store, experiments / "mlflow.db")
    (experiments / "together.yaml").write_text(TOGETHER)
    (experiments / "broken.yaml").write_text(BROKEN)
    return experiments


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASEREWARD_RUNS", str(folder / "runs"))
    monkeypatch.setenv("BASEREWARD_CACHE", str(folder / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))


@pytest.fixture
def experiment(folder: Path) -> Experiment:
    """Return the experiment with few rows per source."""
    return load_experiment(
        str(folder / "together.yaml"), overrides=[word for word in (*SMALL, *FEW) if "digits." not in word]
    )


@pytest.fixture
def swept(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Run the sweep once and return its runs by name."""
    if not (folder / "runs").is_dir():
        result = sweep(experiment)
        assert [row["status"] for row in (*result["cells"], *result["ensembles"])] == ["finished"] * 7, result
    runs: dict[str, Any] = {row.name: row.run for row in results(experiment)}
    return runs


def scores_of(run: Any) -> dict[tuple[str, str], ScoredGroup]:
    """Return the test groups of a run."""
    return {(group.source, group.id): group for group in read_scores(run.scores / "test.jsonl")}


def test_ensemble_has_test_scores_and_metrics(swept: dict[str, Any]) -> None:
    """Its scores are the mean of its members' test scores, or the mean less half their standard deviation, and its
    metrics follow from them."""
    first, second = (scores_of(swept[f"recipe={name}"]) for name in ("one", "two"))
    for name, k in (("average", 0.0), ("careful", 0.5)):
        ensemble_scores = scores_of(swept[name])
        assert ensemble_scores.keys() == first.keys()
        for key, group in ensemble_scores.items():
            member_scores = np.array([first[key].scores, second[key].scores])
            assert group.scores == pytest.approx((member_scores.mean(0) - k * member_scores.std(0)).tolist(), abs=1e-6)
            assert (group.lengths, group.preferences) == (first[key].lengths, first[key].preferences)
        metrics = swept[name].result()["metrics"]
        for source in ("digits", "numbers"):
            margins = [
                margin for group in ensemble_scores.values() if group.source == source for margin in group.margins
            ]
            assert metrics[f"test/{source}/pair_accuracy"] == pytest.approx(np.mean(np.array(margins) > 0))
            assert metrics[f"test/{source}/pairs"] == len(margins)


def test_route_sends_text_to_the_text_model(swept: dict[str, Any]) -> None:
    """Prompts with pictures have the mean of the other members."""
    average, routed, text = (scores_of(swept[name]) for name in ("average", "routed", "recipe=text"))
    assert routed.keys() == average.keys()
    for key, group in routed.items():
        expected = text if key[0] == "numbers" else average
        assert group.scores == pytest.approx(expected[key].scores, abs=1e-6)


def test_ensemble_run_can_be_loaded(swept: dict[str, Any]) -> None:
    """The run id loads a scorer with the mean of its members' scores."""
    ids = [swept[name].run_id for name in ("average", "recipe=one", "recipe=two")]
    ensemble_scores, *member_scores = (load(name).score("Which is larger, 4 or 7?", ["7", "4"]) for name in ids)
    assert ensemble_scores == pytest.approx(np.mean(member_scores, 0).tolist(), abs=1e-6)


def test_next_sweep_skips_cells_and_ensembles(experiment: Experiment, swept: dict[str, Any]) -> None:
    """Skipped cells and ensembles keep their metrics and are compared again."""
    before = {run.run_id for run in list_runs(kind="ensemble")}
    result = sweep(experiment)
    assert [row["status"] for row in (*result["cells"], *result["ensembles"])] == ["skipped"] * 7
    assert {run.run_id for run in list_runs(kind="ensemble")} == before
    metrics = {row["name"]: row["metrics"]["test/pair_accuracy"] for row in result["ensembles"]}
    assert metrics == {name: swept[name].result()["metrics"]["test/pair_accuracy"] for name in metrics}
    compared = {name for row in result["comparisons"] for name in (row["better"], row["other"])}
    assert compared >= {"average", "careful", "routed", "mixed"}


@pytest.fixture
def together(folder: Path) -> Callable[..., Experiment]:
    """Return a function that loads the experiment with further overrides."""
    few = [override for override in (*SMALL, *FEW) if "digits." not in override]
    return lambda *changes: load_experiment(str(folder / "together.yaml"), overrides=[*few, *changes])


def test_ensemble_with_a_member_that_cannot_score_fails(
    swept: dict[str, Any], together: Callable[..., Experiment]
) -> None:
    """A text model cannot score pictures: the error names it, the rows are listed, and there are no metrics."""
    others = ", ".join(f"{name}: null" for name in ("average", "careful", "routed", "mixed"))
    result = sweep(together(f"ensembles={{unfit: {{members: ['*one', '*text']}}, {others}}}"))
    (unfit,) = result["ensembles"]
    assert (unfit["status"], unfit["metrics"]) == ("failed", {})
    assert "every row of digits is rejected" in unfit["error"]
    assert f"(member {swept['recipe=text'].run_id})" in unfit["error"]
    run = next(run for run in list_runs(kind="ensemble") if run.name == "unfit")
    assert (run.state, len(run.rejections.read_text().splitlines())) == ("failed", 12)


def test_ensemble_with_a_failed_member_fails(folder: Path) -> None:
    """The error names the failed member, and ensembles without it are built."""
    changes = [override for override in (*SMALL, *FEW) if "digits." not in override]
    result = sweep(load_experiment(str(folder / "broken.yaml"), overrides=[*changes, "data.sources.digits=null"]))
    by_name = {row["name"]: row for row in (*result["cells"], *result["ensembles"])}
    assert {name: row["status"] for name, row in by_name.items()} == {
        "lr=wild": "failed",
        "lr=tame": "finished",
        "lr=slow": "finished",
        "all": "failed",
        "calm": "finished",
    }
    assert "lr=wild" in by_name["all"]["error"]
    assert find(by_name["calm"]["run_id"]).state == "finished"


def test_ensembles_of_a_deleted_run_are_rebuilt(swept: dict[str, Any], together: Callable[..., Experiment]) -> None:
    """The new ensembles, also the soup, have the new run as a member. The report lists no ensemble of the deleted run,
    and the next sweep skips everything."""
    experiment = together("ensembles={careful: null, routed: null}")
    before = {row["name"]: row["run_id"] for row in sweep(experiment)["ensembles"]}
    assert before == {name: swept[name].run_id for name in ("average", "mixed")}
    shutil.rmtree(swept["recipe=one"].path)
    assert [row.name for row in results(experiment) if row.run is None] == ["recipe=one", "average", "mixed"]
    result = sweep(experiment)
    runs = {row["name"]: row["run_id"] for row in (*result["cells"], *result["ensembles"])}
    assert {row["name"]: row["status"] for row in (*result["cells"], *result["ensembles"])} == {
        "recipe=one": "finished",
        "recipe=two": "skipped",
        "recipe=text": "skipped",
        "average": "finished",
        "mixed": "finished",
    }
    for name in before:
        assert runs[name] != before[name]
        member_names = [row["name"] for row in (find(runs[name]).result() or {})["members"]]
        assert member_names == [runs["recipe=one"], runs["recipe=two"]]
        assert len(load(runs[name]).score("Which is larger, 4 or 7?", ["7", "4"])) == 2
    skipped = sweep(experiment)["ensembles"]
    assert {row["name"]: (row["status"], row["run_id"]) for row in skipped} == {
        name: ("skipped", runs[name]) for name in before
    }
