"""What the runs of a recipe recorded in training by rollouts, averaged over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from basereward.evaluation.reports.alt_texts import line_text
from basereward.evaluation.reports.experiment.figures import curves
from basereward.evaluation.reports.experiment.gather import ROLLOUT_LENGTH, Contender
from basereward.evaluation.reports.experiment.parts import Drawing


def drawings(contenders: Sequence[Contender], figures: Mapping[str, tuple[str, str, str]]) -> Iterator[Drawing]:
    """Draw recorded metrics by optimizer step, without those that no run recorded.

    Args:
        contenders: recipes, one line each.
        figures: name of the drawing -> metric, label of the y axis and title.

    >>> list(drawings([], {"kl": ("train/kl", "nats", "KL")}))
    []
    """
    for name, (metric, axis, title) in figures.items():
        figure = curves(contenders, metric, axis=axis)
        if figure is not None:
            yield Drawing(name, title, figure, line_text(figure))


def by_step(contender: Contender, name: str) -> dict[int, float]:
    """The mean over the seeds of a recorded metric, at the steps of all that recorded it.

    >>> by_step(Contender("rule", results=[]), "train/reward")
    {}
    """
    lines = [dict(run.curves[name]) for run in contender.trained if run.curves.get(name)]
    if not lines:
        return {}
    steps = sorted(set.intersection(*map(set, lines)))
    return {step: float(np.mean([line[step] for line in lines])) for step in steps}


def ending(contender: Contender, name: str) -> float | None:
    """The mean over the last tenth of the recorded steps, and over seeds; None if no run recorded the metric.

    >>> ending(Contender("rule", results=[]), "train/reward") is None
    True
    """
    return mean(_of_runs(contender, name, lambda values: float(np.mean(values[-max(len(values) // 10, 1) :]))))


def length_ratio(contender: Contender) -> float | None:
    """The length of rollouts in the last tenth of the recorded steps over that in the first tenth.

    >>> length_ratio(Contender("rule", results=[])) is None
    True
    """
    return mean(_of_runs(contender, ROLLOUT_LENGTH, _growth))


def _growth(values: Sequence[float]) -> float | None:
    """The mean of the last tenth over that of the first; None where that is 0.

    >>> _growth([2.0, 3.0, 4.0]), _growth([0.0, 1.0])
    (2.0, None)
    """
    part = max(len(values) // 10, 1)
    first = float(np.mean(values[:part]))
    return float(np.mean(values[-part:])) / first if first else None


def _of_runs(contender: Contender, name: str, read: Callable[[Sequence[float]], float | None]) -> list[float | None]:
    series = [[value for _, value in run.curves.get(name, ())] for run in contender.trained]
    return [read(values) for values in series if values]


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the known values; None if there is none.

    >>> mean([1.0, None, 2.0]), mean([])
    (1.5, None)
    """
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
