"""Right pairs of the test data, by source, with intervals and what guessing gives."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from basereward.evaluate.experiment_report.gather import Contender
from basereward.evaluate.numbers import BASELINES, COLUMNS, Row
from basereward.metrics.interval import wilson
from basereward.train.scores import ScoredGroup

ALL = "all pairs"
METRIC = "accuracy"


@dataclass(frozen=True)
class Share:
    """Right pairs of all pairs, a run; the interval is that of the mean run, for one run's number of pairs."""

    right: Sequence[float]
    pairs: Sequence[int]

    @property
    def values(self) -> list[float]:
        return [right / pairs for right, pairs in zip(self.right, self.pairs, strict=True)]

    @property
    def value(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None of one run."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float]:
        pairs = round(statistics.fmean(self.pairs))
        return wilson(round(self.value * pairs), pairs)


def parts(contenders: Iterable[Contender]) -> list[str]:
    """What accuracy is told of: all pairs, and every source where there are several."""
    sources = list(dict.fromkeys(source for each in contenders for source in each.sources))
    return [ALL, *sources] if len(sources) > 1 else [ALL]


def share(contender: Contender, part: str) -> Share | None:
    """None where no run has test scores with a pair in this part."""
    counts = [count for run in contender.trained if (count := _count(run.groups, part))[1]]
    return Share([right for right, _ in counts], [pairs for _, pairs in counts]) if counts else None


def longer(groups: Iterable[ScoredGroup], part: str) -> Share | None:
    """Of the rule that takes the longer answer, in tokens; equal lengths are half right, as by a coin."""
    lengths = [
        (group.lengths[winner], group.lengths[loser])
        for group in groups
        for winner, loser, tie in group.preferences
        if part in (ALL, group.source) and not tie
    ]
    right = sum(1.0 if first > second else 0.5 if first == second else 0.0 for first, second in lengths)
    return Share([right], [len(lengths)]) if lengths else None


def accuracy_rows(contenders: Sequence[Contender], *, seeds: bool = False) -> list[Row]:
    """Rows in the form of `numbers`, with a part of the data in place of a protocol variant; by `seeds`, every run's
    own beside the mean of each recipe that has several."""
    rows: list[Row] = []
    for part in parts(contenders):
        head = dict.fromkeys(COLUMNS) | {"benchmark": "test data", "variant": part, "metric": METRIC}
        for each in contenders:
            found = share(each, part)
            if found is None:
                continue
            rows.append(head | _told(each.name, found))
            if seeds and found.spread is not None:
                runs = [run for run in each.trained if _count(run.groups, part)[1]]
                ones = [Share([right], [pairs]) for right, pairs in zip(found.right, found.pairs, strict=True)]
                rows += [head | _told(run.name, one) for run, one in zip(runs, ones, strict=True)]
        rule = longer(held_out(contenders), part)
        if rule is not None:
            rows.append(head | _told(BASELINES["longer"], rule) | {"source": "baseline"})
            rows.append(head | {"source": "baseline", "model": BASELINES["random"], "value": 0.5})
    return rows


def held_out(contenders: Iterable[Contender]) -> Sequence[ScoredGroup]:
    """Of the first run that has any: what guessing gives does not depend on the run."""
    return next((run.groups for each in contenders for run in each.trained if run.groups), ())


def _count(groups: Iterable[ScoredGroup], part: str) -> tuple[int, int]:
    margins = [margin for group in groups if part in (ALL, group.source) for margin in group.margins]
    return sum(margin > 0 for margin in margins), len(margins)


def _told(name: str, found: Share) -> Row:
    low, high = found.interval
    pairs = round(statistics.fmean(found.pairs))
    several = (
        f"mean of {len(found.pairs)} seeds, standard deviation {found.spread:.4f}" if found.spread is not None else None
    )
    counts = {"numerator": round(found.value * pairs, 2), "denominator": pairs}
    told = {"source": "measured", "model": name, "value": found.value, **counts, "note": several}
    return told | {"low": low, "high": high, "interval": "wilson"}
