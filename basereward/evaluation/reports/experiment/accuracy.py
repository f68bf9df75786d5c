"""Right pairs of the test data: of all that recipes share and by source, with intervals and what guessing gives.

R: runs of a recipe. G: groups of the test data.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from basereward.evaluation.reports.experiment.gather import Contender
from basereward.evaluation.reports.numbers import BASELINES, COLUMNS, Row
from basereward.metrics.interval import Interval, resampled, wilson
from basereward.runs.score_files import ScoredGroup
from basereward.runs.common_test_set import CommonTestSet, Tested, shared

ALL = "shared"  # with the metric as long as a figure has room for
METRIC = "pair accuracy"


@dataclass(frozen=True, eq=False)
class AccuracyShare:
    """Right pairs of all pairs in the same groups, a run; of several runs the mean."""

    runs: Sequence[str]  # R names
    right_RG: NDArray[np.float64]
    pairs_G: NDArray[np.int64]

    @property
    def right(self) -> list[float]:
        """Of each run."""
        return [float(each) for each in self.right_RG.sum(1)]

    @property
    def pairs(self) -> int:
        return int(self.pairs_G.sum())

    @property
    def values(self) -> list[float]:
        return [right / self.pairs for right in self.right]

    @property
    def value(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None of one run."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def method(self) -> str:
        """Of the interval: where all pairs are right, or none, every draw is the same and would say nothing."""
        return "wilson" if self.value in (0.0, 1.0) else "bootstrap"

    @cached_property
    def interval(self) -> Interval:
        """95 %, over groups, since the pairs of one depend on each other; the spread over seeds is not in it."""
        groups = len(self.pairs_G)
        if self.method == "wilson":
            return wilson(round(self.value * groups), groups)
        return resampled(np.stack([self.right_RG.mean(0), self.pairs_G], axis=-1)[:, None], np.ones(1))

    def seeds(self) -> list[AccuracyShare]:
        """Each run's own."""
        return [AccuracyShare([run], right[None], self.pairs_G) for run, right in zip(self.runs, self.right_RG, strict=True)]


@dataclass(frozen=True)
class Column:
    """A part of the test data, what each recipe that was tested on all of it reached, and the longer answer."""

    name: str
    shares: Mapping[str, AccuracyShare]
    longer: AccuracyShare | None


def columns(contenders: Sequence[Contender]) -> list[Column]:
    """The pairs of the groups that most recipes were tested on, and of every source the same where there are several.

    Columns of one page are of the same pairs in every row; a recipe that was tested on others is not there.
    """
    sources = list(dict.fromkeys(source for each in contenders for source in each.sources))
    return [_column(contenders, name) for name in ([ALL, *sources] if len(sources) > 1 else [ALL])]


def _column(contenders: Sequence[Contender], name: str) -> Column:
    runs = {
        each.name: {run.name: part for run in each.trained if (part := _part(run.tested, name))} for each in contenders
    }
    on = shared({recipe: list(tested.values()) for recipe, tested in runs.items()})
    pairs = on.pairs
    shares = {
        recipe: AccuracyShare([*runs[recipe]], np.array([on.right(run) for run in runs[recipe].values()], float), pairs)
        for recipe in on.names
    }
    return Column(name, shares, _longer(on, next(iter(runs[on.names[0]].values()))) if on.names else None)


def _part(tested: Tested, name: str) -> Tested:
    return {key: group for key, group in tested.items() if name in (ALL, group.source)}


def _longer(on: CommonTestSet, tested: Tested) -> AccuracyShare:
    """Of the rule that takes the longer answer, in tokens; equal lengths are half right, as by a coin."""
    right = np.array([[_longer_right(tested[key]) for key in on.groups]])
    return AccuracyShare([BASELINES["longer"]], right, on.pairs)


def _longer_right(group: ScoredGroup) -> float:
    lengths = [(group.lengths[winner], group.lengths[loser]) for winner, loser, tie in group.preferences if not tie]
    return sum(1.0 if first > second else 0.5 if first == second else 0.0 for first, second in lengths)


def accuracy_rows(reached: Sequence[Column], *, seeds: bool = False) -> list[Row]:
    """Rows in the form of `numbers`, with a part of the data in place of a protocol variant; by `seeds`, every run's
    own beside the mean of each recipe that has several."""
    rows: list[Row] = []
    for column in reached:
        head = dict.fromkeys(COLUMNS) | {"benchmark": "test data", "variant": column.name, "metric": METRIC}
        for name, found in column.shares.items():
            rows.append(head | _told(name, found))
            if seeds and found.spread is not None:
                rows += [head | _told(one.runs[0], one) for one in found.seeds()]
        if column.longer is not None:
            rows.append(head | _told(BASELINES["longer"], column.longer) | {"source": "baseline"})
            rows.append(head | {"source": "baseline", "model": BASELINES["random"], "value": 0.5})
    return rows


def _told(name: str, found: AccuracyShare) -> Row:
    low, high = found.interval
    several = (
        f"mean of {len(found.runs)} seeds, standard deviation {found.spread:.4f}" if found.spread is not None else None
    )
    counts = {"numerator": round(found.value * found.pairs, 2), "denominator": found.pairs}
    told = {"source": "measured", "model": name, "value": found.value, **counts, "note": several}
    return told | {"low": low, "high": high, "interval": found.method}
