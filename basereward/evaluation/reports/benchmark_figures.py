"""Pictures of a report: models with their intervals, and their categories side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from basereward.evaluation.reports.drawing import blank, drawn, plain, short
from basereward.evaluation.reports.numbers import Row
from basereward.metrics.palette import COLOURS

HATCHES = ("", "///", "...", "xxx", "\\\\\\", "+++", "ooo")
WHOLE = ("macro", "acc_plus")  # metrics that stand for all items too, beside the first of a variant
MARKS = {"random answer": ":", "longer answer": "--"}


def heads(rows: Sequence[Row], variant: str) -> list[str]:
    """The metrics of a variant that stand for all of its items: the first, and those of WHOLE."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows if row["variant"] == variant))
    return [metric for place, metric in enumerate(metrics) if place == 0 or metric in WHOLE]


def forest(rows: Sequence[Row], *, places: Mapping[str, int] | None = None) -> Figure:
    """One line a model, grouped by variant and metric, with 95 % intervals; papers hollow, baselines as strokes.

    Args:
        rows: of one benchmark, as `numbers` makes them.
        places: of the models among the colours; by default their order in the rows.
    """
    variants = dict.fromkeys(row["variant"] for row in rows)
    groups = [(variant, metric) for variant in variants for metric in heads(rows, variant)]
    members = {
        group: [row for row in rows if (row["variant"], row["metric"]) == group and row["value"] is not None]
        for group in groups
    }
    groups = [group for group in groups if any(row["source"] == "measured" for row in members[group])]
    lines = sum(1 + _lines(members[group]) for group in groups)
    places = places or _places(rows)
    with plain():
        figure, axes = blank(height=1.1 + 0.24 * lines)
        place = 0.0
        ticks: dict[float, str] = {}
        for group in groups:
            place -= 1
            ticks[place] = " · ".join(group)
            place = _group(axes, members[group], top=place, ticks=ticks, places=places)
        axes.set_yticks(list(ticks), [short(name) for name in ticks.values()])
        for label, name in zip(axes.get_yticklabels(), ticks.values(), strict=True):
            if name in map(" · ".join, groups):
                label.set_fontweight("bold")
        axes.set(ylim=(place - 0.7, -0.3), xlabel="right, %; bars are 95 % intervals")
        axes.grid(axis="x", color="0.9", linewidth=0.8)
        _key(figure, rows)
        return drawn(figure)


def bars(rows: Sequence[Row], *, places: Mapping[str, int] | None = None) -> Figure | None:
    """The categories of one variant, one bar a model; None where there are none.

    Args: as of `forest`.
    """
    measured = [row for row in rows if row["source"] == "measured" and row["value"] is not None]
    whole = heads(rows, rows[0]["variant"]) if rows else []
    categories = list(dict.fromkeys(row["metric"] for row in measured if row["metric"] not in whole))
    models = list(dict.fromkeys(row["model"] for row in measured))
    if not categories:
        return None
    thick = 0.8 / len(models)
    with plain():
        figure, axes = blank(height=1.0 + 0.2 * (len(models) + 1) * (1 + len(categories)))
        for number, model in enumerate(models):
            found = {row["metric"]: row for row in measured if row["model"] == model}
            spots = [place + thick * (number + 0.5) - 0.4 for place, name in enumerate(categories) if name in found]
            values = np.array([100 * found[name]["value"] for name in categories if name in found])
            place = (places or _places(rows))[model]
            hatch, colour = HATCHES[place // len(COLOURS) % len(HATCHES)], COLOURS[place % len(COLOURS)]
            axes.barh(spots, values, thick * 0.92, color=colour, label=short(model), hatch=hatch, edgecolor="white")
            for spot, value in zip(spots, values, strict=True):
                axes.text(value + 1, spot, f"{value:.1f}", va="center", fontsize=7.5)
        axes.set_yticks(range(len(categories)), [short(name) for name in categories])
        axes.invert_yaxis()
        axes.set(xlim=(0, 110), xticks=range(0, 101, 20), xlabel="right, %")
        axes.grid(axis="x", color="0.9", linewidth=0.8)
        figure.legend(loc="outside upper left", frameon=False)
        return drawn(figure)


def _places(rows: Sequence[Row]) -> dict[str, int]:
    models = dict.fromkeys(row["model"] for row in rows if row["source"] == "measured")
    return {model: place for place, model in enumerate(models)}


def _lines(rows: Sequence[Row]) -> int:
    sources = [row["source"] for row in rows]
    return sources.count("measured") + ("published" in sources)


def _group(axes: Axes, rows: Sequence[Row], *, top: float, ticks: dict[float, str], places: Mapping[str, int]) -> float:
    """Draws one group below `top` and returns its lowest line."""
    place = top
    for row in (row for row in rows if row["source"] == "measured"):
        place -= 1
        ticks[place] = row["model"]
        colour, value = COLOURS[places[row["model"]] % len(COLOURS)], 100 * row["value"]
        if row["low"] is not None:
            axes.plot([100 * row["low"], 100 * row["high"]], [place, place], color=colour, linewidth=2.2)
        axes.plot([value], [place], color=colour, marker="o", markersize=5.5)
    printed = [100 * row["value"] for row in rows if row["source"] == "published"]
    if printed:
        place -= 1
        ticks[place] = "published"
        axes.plot(printed, [place] * len(printed), "D", markersize=4.5, markerfacecolor="white", markeredgecolor="0.3")
    for row in rows:
        if row["source"] == "baseline" and row["model"] in MARKS:
            spot = 100 * row["value"]
            axes.plot(
                [spot, spot], [place - 0.4, top - 0.6], color="0.35", linestyle=MARKS[row["model"]], linewidth=1.2
            )
    return place


def _key(figure: Figure, rows: Sequence[Row]) -> None:
    """What the strokes and the hollow marks mean, where there are any."""
    axes = figure.axes[0]
    present = {row["model"] for row in rows if row["source"] == "baseline"}
    for name, style in MARKS.items():
        if name in present:
            axes.plot([], [], color="0.35", linestyle=style, linewidth=1.2, label=name)
    if any(row["source"] == "published" for row in rows):
        axes.plot([], [], "D", markersize=4.5, markerfacecolor="white", markeredgecolor="0.3", label="published")
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside upper left", ncols=3, frameon=False, handlelength=1.6, columnspacing=1.2)
