"""What a sweep makes of its cells: ensembles that are tested as cells are, made once, and named when they cannot be."""

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

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TOGETHER = """\
# Two models of all rows and one of text alone, for which every picture is too long, together in three ways.
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
"""
BROKEN = """\
# A cell that no training survives, and what depends on it.
include: basereward
grid: {optimizer.lr: {wild: 1e30, tame: 1e-3, slow: 1e-4}}
ensembles: {all: {}, calm: {members: ["*tame", "*slow"]}}
"""
FEW = ["trainer.steps=2", "trainer.validations=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of this file lie."""
    place = tmp_path_factory.mktemp("together")
    (place / "together.yaml").write_text(TOGETHER)
    (place / "broken.yaml").write_text(BROKEN)
    return place


@pytest.fixture(autouse=True)
def _here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASEREWARD_RUNS", str(folder / "runs"))
    monkeypatch.setenv("BASEREWARD_CACHE", str(folder / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))


@pytest.fixture
def experiment(folder: Path) -> Experiment:
    """With its sources, of few rows, in every cell but the one of text."""
    return load_experiment(str(folder / "together.yaml"), overrides=[o for o in (*SMALL, *FEW) if "digits." not in o])


@pytest.fixture
def swept(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """What the first sweep returned; later calls find its runs."""
    if not (folder / "runs").is_dir():
        result = sweep(experiment)
        assert [row["status"] for row in (*result["cells"], *result["ensembles"])] == ["finished"] * 6, result
    found: dict[str, Any] = {row.name: row.run for row in results(experiment)}
    return found


def scores_of(run: Any) -> dict[tuple[str, str], ScoredGroup]:
    """The test groups of a run."""
    return {(group.source, group.id): group for group in read_scores(run.scores / "test.jsonl")}


def test_an_ensemble_is_tested_by_its_own_scores(swept: dict[str, Any]) -> None:
    """They are the mean of its members' test scores, or the mean less half their spread, and its metrics count them."""
    one, two = (scores_of(swept[f"recipe={name}"]) for name in ("one", "two"))
    for name, k in (("average", 0.0), ("careful", 0.5)):
        found = scores_of(swept[name])
        assert found.keys() == one.keys()
        for key, group in found.items():
            both = np.array([one[key].scores, two[key].scores])
            assert group.scores == pytest.approx((both.mean(0) - k * both.std(0)).tolist(), abs=1e-6)
            assert (group.lengths, group.preferences) == (one[key].lengths, one[key].preferences)
        metrics = swept[name].result()["metrics"]
        for source in ("digits", "numbers"):
            margins = [margin for group in found.values() if group.source == source for margin in group.margins]
            assert metrics[f"test/{source}/pair_accuracy"] == pytest.approx(np.mean(np.array(margins) > 0))
            assert metrics[f"test/{source}/pairs"] == len(margins)


def test_text_goes_to_the_model_for_text(swept: dict[str, Any]) -> None:
    """And pictures to the mean of the others."""
    average, routed, text = (scores_of(swept[name]) for name in ("average", "routed", "recipe=text"))
    assert routed.keys() == average.keys()
    for key, group in routed.items():
        expected = text if key[0] == "numbers" else average
        assert group.scores == pytest.approx(expected[key].scores, abs=1e-6)


def test_it_opens_as_any_run_does(swept: dict[str, Any]) -> None:
    """By its id, and scores what the mean of its members scores."""
    ids = [swept[name].run_id for name in ("average", "recipe=one", "recipe=two")]
    whole, *members = (load(name).score("Which is larger, 4 or 7?", ["7", "4"]) for name in ids)
    assert whole == pytest.approx(np.mean(members, 0).tolist(), abs=1e-6)


def test_the_next_sweep_makes_nothing(experiment: Experiment, swept: dict[str, Any]) -> None:
    """Cells and ensembles are skipped, with what they measured, and compared again."""
    before = {run.run_id for run in list_runs(kind="ensemble")}
    result = sweep(experiment)
    assert [row["status"] for row in (*result["cells"], *result["ensembles"])] == ["skipped"] * 6
    assert {run.run_id for run in list_runs(kind="ensemble")} == before
    metrics = {row["name"]: row["metrics"]["test/pair_accuracy"] for row in result["ensembles"]}
    assert metrics == {name: swept[name].result()["metrics"]["test/pair_accuracy"] for name in metrics}
    named = {name for row in result["comparisons"] for name in (row["better"], row["other"])}
    assert named >= {"average", "careful", "routed"}


@pytest.fixture
def together(folder: Path) -> Callable[..., Experiment]:
    """The experiment with more said on the command line."""
    few = [override for override in (*SMALL, *FEW) if "digits." not in override]
    return lambda *more: load_experiment(str(folder / "together.yaml"), overrides=[*few, *more])


def test_a_test_that_a_member_cannot_take_fails(swept: dict[str, Any], together: Callable[..., Experiment]) -> None:
    """A model of text on pictures: it is named, the rows are listed, and nothing counts as measured."""
    result = sweep(
        together("ensembles={unfit: {members: ['*one', '*text']}, average: null, careful: null, routed: null}")
    )
    (unfit,) = result["ensembles"]
    assert (unfit["status"], unfit["metrics"]) == ("failed", {})
    assert "every row of digits is rejected" in unfit["error"]
    assert f"(member {swept['recipe=text'].run_id})" in unfit["error"]
    run = next(run for run in list_runs(kind="ensemble") if run.name == "unfit")
    assert (run.state, len(run.rejections.read_text().splitlines())) == ("failed", 12)


def test_a_member_that_failed_is_named_and_the_rest_is_made(folder: Path) -> None:
    """Nothing is averaged without it."""
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


def test_ensembles_of_a_run_that_is_gone_are_made_anew(
    swept: dict[str, Any], together: Callable[..., Experiment]
) -> None:
    """A soup too: of the run that took its place. The report has none of those before; the next sweep makes nothing."""
    experiment = together("ensembles={mixed: {how: soup, members: ['*one', '*two']}, careful: null, routed: null}")
    before = {row["name"]: row["run_id"] for row in sweep(experiment)["ensembles"]}
    assert before["average"] == swept["average"].run_id
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
        held = [row["name"] for row in (find(runs[name]).result() or {})["members"]]
        assert held == [runs["recipe=one"], runs["recipe=two"]]
        assert len(load(runs[name]).score("Which is larger, 4 or 7?", ["7", "4"])) == 2
    again = sweep(experiment)["ensembles"]
    assert {row["name"]: (row["status"], row["run_id"]) for row in again} == {
        name: ("skipped", runs[name]) for name in before
    }
