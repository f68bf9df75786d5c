"""Pair accuracy on the test data: on the groups that recipes share, and by source, with intervals and baselines.

Axes of arrays: R runs of a recipe; G groups of the test data.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from basereward.evaluation.reports.experiment.gather import Contender, all_sources
from basereward.evaluation.reports.numbers import BASELINES, COLUMNS, Row
from basereward.metrics.interval import Interval, resampled, wilson
from basereward.runs.common_test_set import CommonTestSet, TestedGroups, common_test_set
from basereward.runs.score_files import ScoredGroup

# Together with the metric this is as long as a name in a figure may be.
ALL = "shared"
METRIC = "pair accuracy"


@dataclass(frozen=True, eq=False)
class AccuracyShare:
    """Pair accuracy of the runs of one recipe on the same groups.

    >>> share = AccuracyShare(["seed=0"], np.array([[1.0, 0.0]]), np.array([1, 1]))
    >>> share.value, share.spread, share.method
    (0.5, None, 'bootstrap')
    """

    runs: Sequence[str]
    """R names"""
    right_RG: NDArray[np.float64]
    """pairs that a run ranks right, by group"""
    pairs_G: NDArray[np.int64]
    """pairs of a group, without ties"""

    @property
    def right(self) -> list[float]:
        """The number of right pairs of each run."""
        return [float(total) for total in self.right_RG.sum(1)]

    @property
    def pairs(self) -> int:
        """The number of pairs."""
        return int(self.pairs_G.sum())

    @property
    def values(self) -> list[float]:
        """The accuracy of each run, from 0 to 1."""
        return [right / self.pairs for right in self.right]

    @property
    def value(self) -> float:
        """The mean accuracy over the runs."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds; None if there is one run."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def method(self) -> str:
        """The method of the interval."""
        # If all pairs are right, or none, every bootstrap resample is the same and the interval would be a point.
        return "wilson" if self.value in (0.0, 1.0) else "bootstrap"

    @cached_property
    def interval(self) -> Interval:
        """The 95 % interval of the mean of these runs. It does not include the spread over seeds."""
        # Over groups, not pairs: the pairs of one group share responses and are not independent.
        groups = len(self.pairs_G)
        if self.method == "wilson":
            return wilson(round(self.value * groups), groups)
        return resampled(np.stack([self.right_RG.mean(0), self.pairs_G], axis=-1)[:, None], np.ones(1))

    def seeds(self) -> list[AccuracyShare]:
        """Split into one share per run."""
        runs = zip(self.runs, self.right_RG, strict=True)
        return [AccuracyShare([run], right_G[None], self.pairs_G) for run, right_G in runs]


@dataclass(frozen=True)
class Column:
    """One part of the test data: the accuracy of each recipe that was tested on all of it.

    >>> Column("digits", shares={}, longer=None).name
    'digits'
    """

    name: str
    shares: Mapping[str, AccuracyShare]
    longer: AccuracyShare | None
    """of the rule that prefers the longer answer"""


def columns(contenders: Sequence[Contender]) -> list[Column]:
    """Compute the columns of the accuracy table: all shared groups and, if there are several sources, each source.

    All values of a column are on the same groups: those that most recipes were tested on. A recipe that was tested on
    other groups is not in the column.

    >>> [column.name for column in columns([])]
    ['shared']
    """
    sources = all_sources(contenders)
    names = [ALL, *sources] if len(sources) > 1 else [ALL]
    return [_column(contenders, name) for name in names]


def best_first(contenders: Sequence[Contender], accuracy: Sequence[Column]) -> list[Contender]:
    """Sort recipes by their accuracy on the shared groups. Those without one come last, in their order.

    >>> best_first([Contender("linear", results=[])], [Column("shared", {}, None)])[0].name
    'linear'
    """
    shares = accuracy[0].shares
    return sorted(contenders, key=lambda one: -shares[one.name].value if one.name in shares else 1.0)


def accuracy_rows(accuracy: Sequence[Column], *, seeds: bool = False) -> list[Row]:
    """Convert columns to rows as `numbers` makes them, with the part of the data in place of a protocol variant.

    Args:
        accuracy: the columns.
        seeds: add a row for each run of a recipe that has several.

    >>> share = AccuracyShare(["seed=0"], np.array([[1.0, 0.0]]), np.array([1, 1]))
    >>> [row["value"] for row in accuracy_rows([Column("shared", {"linear": share}, None)])]
    [0.5]
    """
    rows: list[Row] = []
    for column in accuracy:
        key = dict.fromkeys(COLUMNS) | {"benchmark": "test data", "variant": column.name, "metric": METRIC}
        for name, share in column.shares.items():
            rows.append(key | _values(name, share))
            if seeds and share.spread is not None:
                rows += [key | _values(run.runs[0], run) for run in share.seeds()]
        if column.longer is not None:
            rows.append(key | _values(BASELINES["longer"], column.longer) | {"source": "baseline"})
            rows.append(key | {"source": "baseline", "model": BASELINES["random"], "value": 0.5})
    return rows


def _column(contenders: Sequence[Contender], name: str) -> Column:
    tested_by_recipe = {contender.name: _tested(contender, name) for contender in contenders}
    common = common_test_set({recipe: list(tested.values()) for recipe, tested in tested_by_recipe.items()})
    pairs_G = common.pairs
    shares: dict[str, AccuracyShare] = {}
    for recipe in common.names:
        tested = tested_by_recipe[recipe]
        right_RG = np.array([common.correct(run) for run in tested.values()], float)
        shares[recipe] = AccuracyShare([*tested], right_RG, pairs_G)
    longer = None
    if common.names:
        # Lengths and preferences are the same in all runs that share the groups, so any of them will do.
        first_run = next(iter(tested_by_recipe[common.names[0]].values()))
        longer = _longer_baseline(common, first_run)
    return Column(name, shares, longer)


def _tested(contender: Contender, name: str) -> dict[str, TestedGroups]:
    """The test groups of each run in one part of the data, without runs that have none."""
    parts = {run.name: _part(run.tested, name) for run in contender.trained}
    return {run: part for run, part in parts.items() if part}


def _part(tested: TestedGroups, name: str) -> TestedGroups:
    return {key: group for key, group in tested.items() if name in (ALL, group.source)}


def _longer_baseline(common: CommonTestSet, tested: TestedGroups) -> AccuracyShare:
    """The rule that prefers the answer with more tokens. Equal lengths count half, as if by a coin."""
    right_RG = np.array([[_longer_right(tested[key]) for key in common.groups]])
    return AccuracyShare([BASELINES["longer"]], right_RG, common.pairs)


def _longer_right(group: ScoredGroup) -> float:
    right = 0.0
    for winner, loser, tie in group.preferences:
        if not tie:
            extra_tokens = group.lengths[winner] - group.lengths[loser]
            right += 0.5 if extra_tokens == 0 else float(extra_tokens > 0)
    return right


def _values(name: str, share: AccuracyShare) -> Row:
    low, high = share.interval
    note = None
    if share.spread is not None:
        note = f"mean of {len(share.runs)} seeds, standard deviation {share.spread:.4f}"
    return {
        "source": "measured",
        "model": name,
        "value": share.value,
        "numerator": round(share.value * share.pairs, 2),
        "denominator": share.pairs,
        "note": note,
        "low": low,
        "high": high,
        "interval": share.method,
    }
