"""Figures of an experiment. A recipe has the same colour and line style in all of them."""

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

# Bins of length differences; each holds as many pairs.
BINS = 8
# A mean of fewer pairs than this is noise, so that their bin has no point.
MIN_PAIRS = 5
# With fewer steps than this, markers do not overlap.
MAX_MARKED_STEPS = 12


def colour(place: int) -> str:
    """The colour of the recipe at a place in the list of recipes.

    >>> colour(0) == colour(len(COLOURS))
    True
    """
    return COLOURS[place % len(COLOURS)]


def curves(contenders: Sequence[Contender], name: str, *, axis: str) -> Figure | None:
    """Draw a recorded metric by optimizer step: the mean over seeds as a line, each seed as a thin line.

    Args:
        contenders: recipes, one line each.
        name: of the metric, such as `train/loss`.
        axis: label of the y axis.

    Returns:
        The figure; None if no run recorded the metric.

    >>> curves([], "train/loss", axis="loss") is None
    True
    """
    lines_by_recipe = [_curves_of(contender, name) for contender in contenders]
    if not any(lines_by_recipe):
        return None
    with plain():
        figure, axes = _blank(contenders)
        for place, (contender, lines) in enumerate(zip(contenders, lines_by_recipe, strict=True)):
            if lines:
                _draw_curves(axes, lines, name=contender.name, place=place)
        axes.set(xlabel="optimizer steps", ylabel=axis)
        return with_legend(figure, axes)


def calibration(contenders: Sequence[Contender]) -> Figure | None:
    """Draw the accuracy of test pairs against the confidence sigmoid(|margin|), over all seeds of a recipe.

    Returns:
        The figure; None if there are no test pairs.

    >>> calibration([]) is None
    True
    """
    margins_by_recipe = [_margins(contender) for contender in contenders]
    if not any(margins_by_recipe):
        return None
    with plain():
        figure, axes = _blank(contenders)
        axes.plot([50, 100], [50, 100], color="0.4", linestyle=":", linewidth=1.2)
        for place, (contender, margins) in enumerate(zip(contenders, margins_by_recipe, strict=True)):
            if margins:
                _draw_reliability(axes, margins, name=contender.name, place=place)
        axes.set(xlim=(49, 101), ylim=(-2, 102), xlabel="confidence, %", ylabel="right, %")
        return with_legend(figure, axes)


def length(contenders: Sequence[Contender]) -> Figure | None:
    """Draw by how much the longer of two answers scores higher, in standard deviations of the margins, against by how
    many tokens it is longer.

    Returns:
        The figure; None if no test pair has answers of different lengths.

    >>> length([]) is None
    True
    """
    effects = [_length_effect(contender) for contender in contenders]
    if not any(len(extra_tokens) for extra_tokens, _ in effects):
        return None
    with plain():
        figure, axes = _blank(contenders)
        axes.axhline(0, color="0.4", linewidth=1)
        for place, (contender, (extra_tokens, advantage)) in enumerate(zip(contenders, effects, strict=True)):
            bins = np.array_split(np.argsort(extra_tokens, kind="stable"), BINS)
            large = [members for members in bins if len(members) >= MIN_PAIRS]
            if large:
                x = [float(extra_tokens[members].mean()) for members in large]
                y = [float(advantage[members].mean()) for members in large]
                axes.plot(x, y, marker="o", markersize=4, label=short(contender.name), **line_style(place))
        axes.set(xlabel="extra tokens of the longer answer", ylabel="score difference, std of the margins")
        return with_legend(figure, axes)


def _curves_of(contender: Contender, name: str) -> list[dict[int, float]]:
    """The recorded curve of each seed that has one: optimizer step -> value."""
    curves_of_runs = [dict(run.curves.get(name, ())) for run in contender.trained]
    return [curve for curve in curves_of_runs if curve]


def _draw_curves(axes: Axes, lines: Sequence[dict[int, float]], *, name: str, place: int) -> None:
    if len(lines) > 1:
        for line in lines:
            axes.plot(list(line), list(line.values()), color=colour(place), linewidth=0.7, alpha=0.4)
    # A mean over some of the seeds would jump where a shorter run ends.
    steps = sorted(set.intersection(*map(set, lines)))
    means = [_mean_at(lines, step) for step in steps]
    marker = "o" if len(steps) < MAX_MARKED_STEPS else None
    axes.plot(steps, means, label=short(name), marker=marker, **line_style(place))


def _mean_at(lines: Sequence[dict[int, float]], step: int) -> float:
    return float(np.mean([line[step] for line in lines]))


def _margins(contender: Contender) -> list[float]:
    margins: list[float] = []
    for run in contender.trained:
        for group in run.groups:
            margins += group.margins
    return margins


def _draw_reliability(axes: Axes, margins: Sequence[float], *, name: str, place: int) -> None:
    diagram = reliability(margins)
    label = f"{short(name)}: {diagram.error:.3f}"
    # The area of a point grows with its number of pairs: one of few pairs means little.
    sizes = 6 + 60 * diagram.pairs[diagram.pairs > 0] / diagram.pairs.sum()
    axes.plot(100 * diagram.called, 100 * diagram.right, label=label, **line_style(place))
    axes.scatter(100 * diagram.called, 100 * diagram.right, s=sizes, color=colour(place), zorder=3)


def _length_effect(contender: Contender) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """For each test pair whose answers differ in length: by how many tokens, and the score of the longer answer minus
    that of the other, in standard deviations of all such differences."""
    rows: list[tuple[float, float]] = []
    for run in contender.trained:
        for group in run.groups:
            for winner, loser, tie in group.preferences:
                extra_tokens = group.lengths[winner] - group.lengths[loser]
                if not tie and extra_tokens:
                    rows.append((extra_tokens, group.scores[winner] - group.scores[loser]))
    # Without rows the array still needs two columns.
    table = np.array(rows, dtype=float).reshape(-1, 2)
    signs = np.sign(table[:, 0])
    spread = table[:, 1].std() if len(table) else 0.0
    return table[:, 0] * signs, table[:, 1] * signs / (spread or 1.0)


def _blank(contenders: Sequence[Contender]) -> tuple[Figure, Axes]:
    # The legend stands above the axes and has half a line per name.
    figure, axes = blank(height=2.7 + 0.1 * len(contenders))
    axes.grid(color="0.9", linewidth=0.8)
    return figure, axes


def line_style(place: int) -> dict[str, Any]:
    """Colour, dashes and width of the line of the recipe at a place.

    >>> line_style(0)["linewidth"]
    1.8
    """
    return {"color": colour(place), "linestyle": STYLES[place // len(COLOURS) % len(STYLES)], "linewidth": 1.8}


def with_legend(figure: Figure, axes: Axes) -> Figure:
    """The figure with its layout, and with the names of its lines above the axes.

    >>> figure, axes = blank(height=2.0)
    >>> with_legend(figure, axes) is figure
    True
    """
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside upper left", ncols=2, frameon=False, handlelength=2.2, columnspacing=1.2)
    return drawn(figure)
