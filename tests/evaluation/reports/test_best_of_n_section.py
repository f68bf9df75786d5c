"""Test the section about best-of-N: its curves, and the correlation of gain and accuracy over models."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import pytest
from scipy.stats import pearsonr, spearmanr

from basereward.data.images.image_store import ImageStore
from basereward.evaluation.items import JudgedItem, Outcome
from basereward.evaluation.protocols.best_of_n import BestOfNProtocol, scored_responses
from basereward.evaluation.protocols.vl_rewardbench import VLRewardBench
from basereward.evaluation.reports.analyses.best_of_n import best_of_n_section, correlations, judge_curves
from basereward.evaluation.reports.experiment.gather import Contender, gather
from basereward.evaluation.statistics.best_of_n import best_of_n
from basereward.recipe import load_experiment
from tests.helpers.experiment_runs import finished_run, write_measures, written_recipe

ROOT = Path(__file__).parents[3]
LEADS = {"a": 0.0, "b": 0.5, "c": 1.0, "d": 1.5, "e": 2.5}


def scripted(lead: float, *, seed: int) -> tuple[list[JudgedItem], list[JudgedItem]]:
    """Return outcomes on 60 pairs and on 40 prompts with 8 responses of a judge whose right responses score `lead`
    higher on average. Some prompts have only right, or only wrong, responses."""
    rng = random.Random(seed)
    pairs: list[JudgedItem] = []
    for number in range(60):
        row = {
            "id": f"wildvision-{number}",
            "query": "?",
            "response": ["4", "5"],
            "human_ranking": [0, 1],
            "image": "1",
        }
        scores = (rng.gauss(lead, 1.0), rng.gauss(0.0, 1.0))
        item = VLRewardBench().item(row, number=number, images=ImageStore())
        pairs.append(JudgedItem(item, Outcome(scores=scores)))
    prompts: list[JudgedItem] = []
    for number in range(40):
        right = [place < number % 9 for place in range(8)]
        row = {"id": number, "prompt": f"{number}?", "responses": [f"{place}" for place in range(8)], "right": right}
        scores = tuple(rng.gauss(lead if value else 0.0, 1.0) for value in right)
        item = BestOfNProtocol().item(row, number=number, images=ImageStore())
        prompts.append(JudgedItem(item, Outcome(scores=scores)))
    return pairs, prompts


@pytest.fixture
def contenders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Contender]:
    """Five finished models, measured on pairs and on sampled responses."""
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(tmp_path / "experiments"))
    grid = {"optimizer.lr": {name: 0.001 * (1 + place) for place, name in enumerate(LEADS)}}
    written_recipe(tmp_path / "experiments", "judges", {"include": "basereward", "grid": grid})
    experiment = load_experiment("judges")
    for place, (cell, lead) in enumerate(zip(experiment.cells, LEADS.values(), strict=True)):
        pairs, prompts = scripted(lead, seed=place)
        run = finished_run(cell)
        write_measures(run, "vl_rewardbench", VLRewardBench().variants, pairs)
        write_measures(run, "best_of_n", BestOfNProtocol().variants, prompts)
    return gather(experiment)


def test_curves_and_correlations_are_those_of_the_outcomes(contenders: list[Contender]) -> None:
    """The curve read from the files is that of the scores, also of prompts whose responses are all right or all wrong.
    Pearson's and Spearman's coefficients are scipy's, of the five pairs of accuracy and gain."""
    curves = judge_curves(contenders)
    gains, accuracies = [], []
    for place, (curve, lead) in enumerate(zip(curves, LEADS.values(), strict=True)):
        pairs, prompts = scripted(lead, seed=place)
        expected = best_of_n(scored_responses(prompts))
        assert [point.n for point in expected] == [1, 2, 4, 8]
        assert [point.value for point in curve.points] == pytest.approx([point.value for point in expected])
        truths = [sum(prompt.right) / 8 for prompt in scored_responses(prompts)]
        assert curve.points[0].value == pytest.approx(sum(truths) / 40)
        accuracies.append(sum(entry.is_right for entry in pairs) / 60)
        gains.append(expected[-1].gain)
    (benchmark,) = curves[0].accuracies
    assert benchmark == "vl_rewardbench official/overall"
    pearson, spearman = correlations(curves, benchmark, 8)
    assert pearson.value == pytest.approx(pearsonr(accuracies, gains).statistic)
    assert spearman.value == pytest.approx(spearmanr(accuracies, gains).statistic)
    assert pearson.n == 5
    section = best_of_n_section(curves)
    assert section is not None
    shown = re.findall(r'data-value="([-\d.]+)"', section.html())
    assert f"{pearson.value:.8f}" in shown
    assert [drawing.name for drawing in section.drawings] == ["best-of-n", f"best-of-n {benchmark}"]


def test_models_without_responses_of_a_policy_have_no_section(contenders: list[Contender]) -> None:
    """The evaluation on pairs alone gives no curve."""
    for contender in contenders:
        shutil.rmtree(contender.trained[0].run.evaluations / "best_of_n")
    assert best_of_n_section(judge_curves(gather(load_experiment("judges")))) is None
