"""Test the accuracy on an experiment's page: the compared pairs and the intervals."""

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
    """Return a recipe whose runs scored these groups."""
    empty_fields: dict[str, Any] = {
        "result": {},
        "curves": {},
        "peak_gib": None,
        "store": None,
        "evaluations": (),
        "faults": (),
    }
    trained = [
        TrainedRun(
            name=f"{name},seed={seed}",
            run=RunFolder(Path("x")),
            groups=groups,
            created=0.0,
            commit=None,
            **empty_fields,
        )
        for seed, groups in enumerate(runs)
    ]
    return Contender(name, [], trained)


def share_of(right: Sequence[Sequence[float]], sizes: Sequence[int]) -> AccuracyShare:
    """Return the share of right pairs from the counts by run and group."""
    return AccuracyShare([str(run) for run in range(len(right))], np.array(right, float), np.array(sizes))


def half(share: AccuracyShare) -> float:
    """Return half the width of the interval."""
    return (share.interval[1] - share.interval[0]) / 2


def test_interval_has_the_nominal_coverage() -> None:
    """Groups have one to six pairs, all right or all wrong, and 70 % of the groups are right. About 285 of 300
    intervals contain 0.7, and at least 285 less four standard deviations of 3.8. Wilson's interval over pairs contains
    it about 200 times."""
    generator = np.random.default_rng(0)
    covered = covered_by_wilson = 0
    for _ in range(300):
        sizes = generator.integers(1, 7, 150)
        right = sizes * (generator.random(150) < 0.7)
        low, high = share_of([right.tolist()], sizes.tolist()).interval
        covered += low <= 0.7 <= high
        low, high = wilson(int(right.sum()), int(sizes.sum()))
        covered_by_wilson += low <= 0.7 <= high
    assert covered >= 270 > covered_by_wilson


def test_interval_is_that_of_a_ratio_of_sums() -> None:
    """Half the width is 1.96 sqrt(sum (right - share pairs)^2) / sum pairs, the linearised error of a ratio (Cochran
    1977, section 6.4). This also holds for the mean of two runs, whose interval is narrower where their errors
    differ."""
    generator = np.random.default_rng(1)
    sizes = generator.integers(1, 5, 400)
    runs = generator.binomial(sizes, 0.6, (2, 400))
    for right in (runs[:1], runs):
        share = share_of(right.tolist(), sizes.tolist())
        residuals = right.mean(0) - share.value * sizes
        assert half(share) == pytest.approx(1.96 * np.sqrt((residuals**2).sum()) / sizes.sum(), rel=0.06)
        assert share.method == "bootstrap"


@pytest.mark.parametrize("value", [0, 1])
def test_interval_counts_groups_where_all_or_no_pairs_are_right(value: int) -> None:
    """20 groups of three pairs have no spread for a bootstrap, and Wilson's interval of 60 pairs would be too narrow:
    the interval is Wilson's of 20 groups."""
    share = share_of([[3 * value] * 20], [3] * 20)
    assert share.interval == wilson(20 * value, 20)
    assert share.method == "wilson"


def test_column_has_the_same_pairs_in_every_row() -> None:
    """Two recipes are tested on digits and text, one on text alone. All three are compared on the ten text pairs, and
    the column of digits has the first two. The longer answer is right in 7.5 of 10 and in 15 of 20 pairs."""
    both = [contender(name, [*pairs(18, 20), *pairs(right, 10, source="text")]) for name, right in (("a", 5), ("b", 6))]
    columns_by_name = {
        column.name: column for column in columns([*both, contender("text", pairs(7, 10, source="text"))])
    }
    assert shares(columns_by_name) == {
        ALL: {"a": 0.5, "b": 0.6, "text": 0.7},
        "digits": {"a": 0.9, "b": 0.9},
        "text": {"a": 0.5, "b": 0.6, "text": 0.7},
    }
    assert {name: column.longer.right for name, column in columns_by_name.items() if column.longer} == {
        ALL: [7.5],
        "digits": [15.0],
        "text": [7.5],
    }


def test_source_that_the_first_recipe_lacks_has_a_length_baseline() -> None:
    """The baseline of a source comes from a run that was tested on it."""
    all_columns = columns([contender("a", pairs(3, 4)), contender("b", pairs(3, 8, source="text"))])
    assert {column.name: column.longer.right for column in all_columns if column.longer} == {
        ALL: [6.0],  # as many recipes have either set of pairs, so the larger set is taken
        "digits": [3.0],
        "text": [6.0],
    }
    assert [[*column.shares] for column in all_columns] == [["b"], ["a"], ["b"]]


def test_groups_that_one_run_lacks_are_excluded() -> None:
    """The second run lacks one of four rows and the other recipe another one, so two rows are compared."""
    rows = pairs(4, 4)
    (column,) = columns([contender("a", rows, rows[1:]), contender("b", rows[:3])])
    assert {name: share.pairs for name, share in column.shares.items()} == {"a": 2, "b": 2}


def test_rows_name_the_interval_method() -> None:
    """A recipe with two seeds has a row for the mean and one for each seed."""
    rows = accuracy_rows(columns([contender("a", pairs(3, 4), pairs(4, 4))]), seeds=True)
    measured = [
        (row["model"], row["value"], row["interval"], row["metric"]) for row in rows if row["source"] == "measured"
    ]
    assert measured == [
        ("a", 0.875, "bootstrap", "pair accuracy"),
        ("a,seed=0", 0.75, "bootstrap", "pair accuracy"),
        ("a,seed=1", 1.0, "wilson", "pair accuracy"),
    ]


def test_recipe_without_runs_has_an_empty_column() -> None:
    """The page still has its table."""
    (column,) = columns([contender("a")])
    assert (column.name, dict(column.shares), column.longer) == (ALL, {}, None)
    assert accuracy_rows([column]) == []


def shares(columns_by_name: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the share of each recipe by column."""
    return {
        name: {recipe: share.value for recipe, share in column.shares.items()}
        for name, column in columns_by_name.items()
    }
