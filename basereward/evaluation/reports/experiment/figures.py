"""Pictures of an experiment. A recipe has the same colour and stroke in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from basereward.evaluation.reports.drawing import blank, drawn, plain, short
from basereward.evaluation.reports.experiment.gather import Contender
from basereward.metrics.palette import COLOURS, STYLES
from basereward.metrics.reliability import reliability

BINS = 8  # of length differences, with as many pairs in each
FEWEST = 5  # pairs in a bin that a point is drawn of


def colour(place: int) -> str:
    """Of the recipe at this place."""
    return COLOURS[place % len(COLOURS)]


def curves(contenders: Sequence[Contender], name: str, *, axis: str) -> Figure | None:
    """A recorded number by step: a line a recipe, the mean over its seeds, with each seed's thin; None without any."""
    if not any(run.curves.get(name) for each in contenders for run in each.trained):
        return None
    with plain():
        figure, axes = _figure(contenders)
        for place, each in enumerate(contenders):
            lines = [dict(run.curves[name]) for run in each.trained if run.curves.get(name)]
            if not lines:
                continue
            if len(lines) > 1:
                for line in lines:
                    axes.plot(list(line), list(line.values()), color=colour(place), linewidth=0.7, alpha=0.4)
            steps = sorted(set.intersection(*(set(line) for line in lines)))
            means = [float(np.mean([line[step] for line in lines])) for step in steps]
            marker = "o" if len(steps) < 12 else None
            axes.plot(steps, means, label=short(each.name), marker=marker, **_stroke(place))
        axes.set(xlabel="optimizer steps", ylabel=axis)
        return _finished(figure, axes)


def calibration(contenders: Sequence[Contender]) -> Figure | None:
    """Accuracy of the test pairs against confidence sigmoid(|margin|), all seeds of a recipe together."""
    margins = [[m for run in each.trained for group in run.groups for m in group.margins] for each in contenders]
    if not any(margins):
        return None
    with plain():
        figure, axes = _figure(contenders)
        axes.plot([50, 100], [50, 100], color="0.4", linestyle=":", linewidth=1.2)
        for place, (each, values) in enumerate(zip(contenders, margins, strict=True)):
            if values:
                found = reliability(values)
                label = f"{short(each.name)}: {found.error:.3f}"
                # As large as the number of pairs in the bin: a point of few pairs says little.
                sizes = 6 + 60 * found.pairs[found.pairs > 0] / found.pairs.sum()
                axes.plot(100 * found.called, 100 * found.right, label=label, **_stroke(place))
                axes.scatter(100 * found.called, 100 * found.right, s=sizes, color=colour(place), zorder=3)
        axes.set(xlim=(49, 101), ylim=(-2, 102), xlabel="confidence of the call, %", ylabel="right, %")
        return _finished(figure, axes)


def length(contenders: Sequence[Contender]) -> Figure | None:
    """How much higher the longer of two answers scores, in spreads of its margins, by how much longer it is."""
    found = [_by_length(each) for each in contenders]
    if not any(len(differences) for differences, _ in found):
        return None
    with plain():
        figure, axes = _figure(contenders)
        axes.axhline(0, color="0.4", linewidth=1)
        for place, (each, (differences, advantage)) in enumerate(zip(contenders, found, strict=True)):
            cuts = [
                part for part in np.array_split(np.argsort(differences, kind="stable"), BINS) if len(part) >= FEWEST
            ]
            if cuts:
                x, y = ([float(np.mean(values[part])) for part in cuts] for values in (differences, advantage))
                axes.plot(x, y, marker="o", markersize=4, label=short(each.name), **_stroke(place))
        axes.set(xlabel="tokens that the longer answer has more", ylabel="its score less the other's, in spreads")
        return _finished(figure, axes)


def _by_length(contender: Contender) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Of test pairs whose answers differ in length: by how many tokens, and the longer one's score less the other's."""
    rows = [
        (group.lengths[winner] - group.lengths[loser], group.scores[winner] - group.scores[loser])
        for run in contender.trained
        for group in run.groups
        for winner, loser, tie in group.preferences
        if not tie and group.lengths[winner] != group.lengths[loser]
    ]
    table = np.array(rows, dtype=float).reshape(-1, 2)
    signs = np.sign(table[:, 0])
    spread = table[:, 1].std() if len(table) else 0.0
    return table[:, 0] * signs, table[:, 1] * signs / (spread or 1.0)


def _figure(contenders: Sequence[Contender]) -> tuple[Figure, Axes]:
    """Room for the names above."""
    figure, axes = blank(height=2.7 + 0.1 * len(contenders))
    axes.grid(color="0.9", linewidth=0.8)
    return figure, axes


def _stroke(place: int) -> dict[str, Any]:
    return {"color": colour(place), "linestyle": STYLES[place // len(COLOURS) % len(STYLES)], "linewidth": 1.8}


def _finished(figure: Figure, axes: Axes) -> Figure:
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside upper left", ncols=2, frameon=False, handlelength=2.2, columnspacing=1.2)
    return drawn(figure)
