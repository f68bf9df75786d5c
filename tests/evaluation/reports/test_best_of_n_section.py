"""Test the section about best-of-N: its curves, and the correlation of gain and accuracy over models."""

from __future__ import annotations

import json
import math
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
from basereward.evaluation.reports.experiment.parts import Section
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


def section_of(contenders: list[Contender]) -> Section:
    """Return the section about these models."""
    section = best_of_n_section(judge_curves(contenders))
    assert section is not None
    return section


def table_rows(section: Section, place: int) -> list[list[str]]:
    """Return the texts of the cells of a table, by row."""
    body = re.findall(r"<tbody>(.*?)</tbody>", section.html(), flags=re.DOTALL)[place]
    rows = re.findall(r"<tr.*?</tr>", body, flags=re.DOTALL)
    return [
        [" ".join(re.sub("<[^>]*>", " ", cell).split()) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)]
        for row in rows
    ]


def test_table_has_values_gains_and_their_intervals(contenders: list[Contender]) -> None:
    """Every row has the accuracy, and for each N the value and the gain with the interval of the gain, which is another
    one than that of the value. The last row is the share of prompts that a perfect choice would reach: with r of 8
    right responses 1 - C(8 - r, N) / C(8, N), averaged over the prompts."""
    *models, best = table_rows(section_of(contenders), 0)
    for row, place in zip(models, range(5), strict=True):
        pairs, prompts = scripted(LEADS["abcde"[place]], seed=place)
        expected = best_of_n(scored_responses(prompts))
        assert row[1] == f"{100 * sum(entry.is_right for entry in pairs) / 60:.1f}"
        assert row[2] == f"{100 * expected[0].value:.1f}"
        for cell, point in zip(row[3:], expected[1:], strict=True):
            low, high = (100 * bound for bound in point.gain_interval)
            assert cell == f"{100 * point.value:.1f} {100 * point.gain:+.1f} ({low:+.1f} to {high:+.1f})"
            assert point.gain_interval != point.interval
    right = [number % 9 for number in range(40)]
    reached = [sum(1 - math.comb(8 - each, n) / math.comb(8, n) for each in right) / 40 for n in (1, 2, 4, 8)]
    assert best[2:] == [f"{100 * share:.1f}" for share in reached]


def test_correlations_are_shown_with_their_intervals(contenders: list[Contender]) -> None:
    """A row for each N above 1: Pearson before Spearman, each with its interval by Fisher's z, and the number of
    models."""
    curves = judge_curves(contenders)
    accuracies = [curve.accuracies["vl_rewardbench official/overall"] for curve in curves]
    rows = table_rows(section_of(contenders), 1)
    assert [row[1] for row in rows] == ["2", "4", "8"]
    for row, n in zip(rows, (2, 4, 8), strict=True):
        gains = [curve.gain(n) for curve in curves]
        r, rho = pearsonr(accuracies, gains).statistic, spearmanr(accuracies, gains).statistic
        for cell, value, variance in ((row[2], r, 1.0), (row[3], rho, 1 + rho**2 / 2)):
            if abs(value) > 1 - 1e-9:  # a perfect rank correlation has no interval
                assert cell == f"{value:.3f}"
                continue
            half = 1.959964 * math.sqrt(variance / (5 - 3))
            low, high = math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half)
            assert cell == f"{value:.3f} {low:.2f} to {high:.2f}"
        assert row[4] == "5"


def test_scatter_has_the_accuracy_on_x_and_the_gain_at_the_largest_n_on_y(contenders: list[Contender]) -> None:
    """One point for each model, in percent and in points, and the same numbers in words."""
    curves = judge_curves(contenders)
    scatter = section_of(contenders).drawings[1]
    (axes,) = scatter.figure.axes
    points = [tuple(map(float, dots.get_offsets()[0])) for dots in axes.collections]
    expected = [
        (100 * curve.accuracies["vl_rewardbench official/overall"], 100 * curve.points[-1].gain) for curve in curves
    ]
    assert points == [pytest.approx(point) for point in expected]
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "vl_rewardbench official/overall, %",
        "gain of best of 8, points",
    )
    for (x, y), curve in zip(expected, curves, strict=True):
        assert f"{curve.name}: {x:.1f} %, {y:+.1f} points" in scatter.alt


def test_partial_evaluations_are_not_correlated(contenders: list[Contender]) -> None:
    """An accuracy on half of the pairs is of another set of pairs; a model without scores for some prompts has no
    curve."""
    folder = contenders[0].trained[0].run.evaluations
    for name, changed in (("vl_rewardbench", {"partial": "30 of 60 are scored"}), ("best_of_n", {})):
        file = folder / name / "evaluation.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    curves = judge_curves(gather(load_experiment("judges")))
    assert [bool(curve.accuracies) for curve in curves] == [False, True, True, True, True]
    assert correlations(curves, "vl_rewardbench official/overall", 8)[0].n == 4
    items = folder / "best_of_n" / "items.jsonl"
    first, *others = items.read_text().splitlines()
    items.write_text("\n".join([json.dumps(json.loads(first) | {"scores": None}), *others]) + "\n")
    assert [curve.name for curve in judge_curves(gather(load_experiment("judges")))] == [
        f"lr={name}" for name in "bcde"
    ]
