"""Accuracy of an experiment's page: on which pairs, and how sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from basereward.evaluation.reports.experiment.accuracy import ALL, AccuracyShare, accuracy_rows, columns
from basereward.evaluation.reports.experiment.gather import Contender, TrainedRun
from basereward.metrics.interval import wilson
from basereward.runs.run_folder import RunFolder
from basereward.runs.score_files import ScoredGroup
from tests.helpers.experiment_runs import pairs


def contender(name: str, *runs: Sequence[ScoredGroup]) -> Contender:
    """A recipe with runs that scored these."""
    nothing: dict[str, Any] = {
        "result": {},
        "curves": {},
        "peak_gib": None,
        "store": None,
        "evaluations": (),
        "faults": (),
    }
    trained = [
        TrainedRun(name=f"{name},seed={seed}", run=RunFolder(Path("x")), groups=groups, **nothing)
        for seed, groups in enumerate(runs)
    ]
    return Contender(name, [], trained)


def share_of(right: Sequence[Sequence[float]], sizes: Sequence[int]) -> AccuracyShare:
    """Of runs, by group."""
    return AccuracyShare([str(run) for run in range(len(right))], np.array(right, float), np.array(sizes))


def half(share: AccuracyShare) -> float:
    """Half the width of its interval."""
    return (share.interval[1] - share.interval[0]) / 2


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Groups of one to six pairs, all right or all wrong, right in 70 %: of 300 draws about 285 intervals hold that,
    at least 285 less four standard deviations of 3.8. Wilson's over pairs holds it in 200 or so."""
    coin = np.random.default_rng(0)
    covered = by_pairs = 0
    for _ in range(300):
        sizes = coin.integers(1, 7, 150)
        right = sizes * (coin.random(150) < 0.7)
        low, high = share_of([right.tolist()], sizes.tolist()).interval
        covered += low <= 0.7 <= high
        low, high = wilson(int(right.sum()), int(sizes.sum()))
        by_pairs += low <= 0.7 <= high
    assert covered >= 270 > by_pairs


def test_the_interval_is_that_of_a_ratio_of_sums() -> None:
    """Half of it is 1.96 sqrt(sum (right - share pairs)^2) / sum pairs, the linearised error of a ratio (Cochran 1977,
    section 6.4), also for the mean of two runs, which is surer than one where they err apart."""
    coin = np.random.default_rng(1)
    sizes = coin.integers(1, 5, 400)
    runs = coin.binomial(sizes, 0.6, (2, 400))
    for right in (runs[:1], runs):
        found = share_of(right.tolist(), sizes.tolist())
        rest = right.mean(0) - found.value * sizes
        assert half(found) == pytest.approx(1.96 * np.sqrt((rest**2).sum()) / sizes.sum(), rel=0.06)
        assert found.method == "bootstrap"


@pytest.mark.parametrize("value", [0, 1])
def test_where_all_pairs_are_right_groups_are_counted(value: int) -> None:
    """20 groups of three pairs: draws of them say nothing, and 60 pairs would say too much."""
    found = share_of([[3 * value] * 20], [3] * 20)
    assert found.interval == wilson(20 * value, 20)
    assert found.method == "wilson"


def test_a_column_is_of_the_same_pairs_in_every_row() -> None:
    """Two recipes read pictures and text, one text alone, on which it beats them: all compare on the ten pairs of text,
    and pictures are told of the two. The longer answer is right in 7.5 of 10 and in 15 of 20."""
    both = [contender(name, [*pairs(18, 20), *pairs(right, 10, source="text")]) for name, right in (("a", 5), ("b", 6))]
    found = {column.name: column for column in columns([*both, contender("text", pairs(7, 10, source="text"))])}
    assert shares(found) == {
        ALL: {"a": 0.5, "b": 0.6, "text": 0.7},
        "digits": {"a": 0.9, "b": 0.9},
        "text": {"a": 0.5, "b": 0.6, "text": 0.7},
    }
    assert {name: column.longer.right for name, column in found.items() if column.longer} == {
        ALL: [7.5],
        "digits": [15.0],
        "text": [7.5],
    }


def test_a_source_that_the_first_recipe_lacks_has_its_rule() -> None:
    """The longer answer of a source comes from a run that was tested on it."""
    found = columns([contender("a", pairs(3, 4)), contender("b", pairs(3, 8, source="text"))])
    assert {column.name: column.longer.right for column in found if column.longer} == {
        ALL: [6.0],  # of two sets that as many were tested on, the larger
        "digits": [3.0],
        "text": [6.0],
    }
    assert [[*column.shares] for column in found] == [["b"], ["a"], ["b"]]


def test_groups_that_a_seed_lacks_are_in_no_row() -> None:
    """One of four rows was lost to the second run, and one to the other recipe: two are compared."""
    rows = pairs(4, 4)
    (found,) = columns([contender("a", rows, rows[1:]), contender("b", rows[:3])])
    assert {name: share.pairs for name, share in found.shares.items()} == {"a": 2, "b": 2}


def test_rows_say_how_the_interval_was_found() -> None:
    """Of a recipe with two seeds, by the mean and by each."""
    rows = accuracy_rows(columns([contender("a", pairs(3, 4), pairs(4, 4))]), seeds=True)
    told = [(row["model"], row["value"], row["interval"], row["metric"]) for row in rows if row["source"] == "measured"]
    assert told == [
        ("a", 0.875, "bootstrap", "pair accuracy"),
        ("a,seed=0", 0.75, "bootstrap", "pair accuracy"),
        ("a,seed=1", 1.0, "wilson", "pair accuracy"),
    ]


def test_without_runs_there_is_a_column_of_nothing() -> None:
    """The page has its table."""
    (found,) = columns([contender("a")])
    assert (found.name, dict(found.shares), found.longer) == (ALL, {}, None)
    assert accuracy_rows([found]) == []


def shares(found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What each recipe reached, by column."""
    return {name: {recipe: share.value for recipe, share in column.shares.items()} for name, column in found.items()}
