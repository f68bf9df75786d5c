"""Figures of benchmark results: a forest plot of models with their intervals, and bars of the categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from basereward.evaluation.reports.drawing import blank, drawn, plain, short
from basereward.evaluation.reports.numbers import Row
from basereward.metrics.palette import COLOURS

# Beyond the number of colours, bars differ in their hatches.
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "+++", "ooo")
# Metrics that cover all items, in addition to the first metric of a variant.
OVERALL_METRICS = ("macro", "acc_plus")
LINE_STYLES = {"random answer": ":", "longer answer": "--"}
SEPARATOR = " · "


def overall_metrics(rows: Sequence[Row], variant: str) -> list[str]:
    """The metrics of a variant that cover all of its items: its first metric, and those in `OVERALL_METRICS`.

    >>> rows = [{"variant": "v", "metric": metric} for metric in ("acc", "safety", "acc_plus")]
    >>> overall_metrics(rows, "v")
    ['acc', 'acc_plus']
    """
    metrics = list(dict.fromkeys(row["metric"] for row in rows if row["variant"] == variant))
    return [metric for place, metric in enumerate(metrics) if place == 0 or metric in OVERALL_METRICS]


def forest(rows: Sequence[Row], *, places: Mapping[str, int] | None = None) -> Figure:
    """Draw a forest plot: one line per model, grouped by variant and metric, with 95 % intervals.

    Published values are hollow diamonds, baselines are vertical lines.

    Args:
        rows: of one benchmark, as `numbers` makes them.
        places: model -> index of its colour; the order of the models in the rows by default.

    >>> key = {"variant": "official", "metric": "overall", "source": "measured"}
    >>> row = {**key, "model": "mine", "value": 0.7, "low": 0.6, "high": 0.8}
    >>> forest([row]).axes[0].get_xlabel()
    'right, %; bars are 95 % intervals'
    """
    groups = _groups(rows)
    lines = sum(1 + _count_lines(members) for members in groups.values())
    places = places or _colour_places(rows)
    with plain():
        figure, axes = blank(height=1.1 + 0.24 * lines)
        y = 0.0
        ticks: dict[float, str] = {}
        titles: set[str] = set()
        for group, members in groups.items():
            y -= 1
            ticks[y] = SEPARATOR.join(group)
            titles.add(ticks[y])
            y = _draw_group(axes, members, top=y, ticks=ticks, places=places)
        axes.set_yticks(list(ticks), [short(name) for name in ticks.values()])
        for label, name in zip(axes.get_yticklabels(), ticks.values(), strict=True):
            if name in titles:
                label.set_fontweight("bold")
        axes.set(ylim=(y - 0.7, -0.3), xlabel="right, %; bars are 95 % intervals")
        axes.grid(axis="x", color="0.9", linewidth=0.8)
        _add_legend(figure, rows)
        return drawn(figure)


def bars(rows: Sequence[Row], *, places: Mapping[str, int] | None = None) -> Figure | None:
    """Draw the categories of one variant as horizontal bars, one per model.

    Args:
        rows: of one variant of one benchmark, as `numbers` makes them.
        places: as for `forest`.

    Returns:
        The figure; None if the variant has no categories.

    >>> key = {"variant": "official", "source": "measured", "model": "mine"}
    >>> rows = [{**key, "metric": "overall", "value": 0.7}, {**key, "metric": "general", "value": 0.6}]
    >>> [label.get_text() for label in bars(rows).axes[0].get_yticklabels()]
    ['general']
    """
    measured = [row for row in rows if row["source"] == "measured" and row["value"] is not None]
    categories = _categories(rows, measured)
    models = list(dict.fromkeys(row["model"] for row in measured))
    if not categories:
        return None
    places = places or _colour_places(rows)
    # The bars of a category fill 0.8 of its height; the rest separates it from the next.
    thickness = 0.8 / len(models)
    with plain():
        figure, axes = blank(height=1.0 + 0.2 * (len(models) + 1) * (1 + len(categories)))
        for number, model in enumerate(models):
            values = _percentages(measured, model)
            offset = thickness * (number + 0.5) - 0.4
            _draw_bars(axes, values, categories, model=model, offset=offset, thickness=thickness, place=places[model])
        axes.set_yticks(range(len(categories)), [short(name) for name in categories])
        axes.invert_yaxis()
        axes.set(xlim=(0, 110), xticks=range(0, 101, 20), xlabel="right, %")
        axes.grid(axis="x", color="0.9", linewidth=0.8)
        figure.legend(loc="outside upper left", frameon=False)
        return drawn(figure)


def _categories(rows: Sequence[Row], measured: Sequence[Row]) -> list[str]:
    """The measured metrics of a variant that cover a part of its items only, in their order."""
    overall = overall_metrics(rows, rows[0]["variant"]) if rows else []
    return list(dict.fromkeys(row["metric"] for row in measured if row["metric"] not in overall))


def _percentages(measured: Sequence[Row], model: str) -> dict[str, float]:
    """The values of one model in percent, by metric."""
    return {row["metric"]: 100 * row["value"] for row in measured if row["model"] == model}


def _draw_bars(
    axes: Axes,
    values: Mapping[str, float],
    categories: Sequence[str],
    *,
    model: str,
    offset: float,
    thickness: float,
    place: int,
) -> None:
    """Draw the bars of one model; a category without a value has no bar."""
    heights = [line + offset for line, category in enumerate(categories) if category in values]
    widths = np.array([values[category] for category in categories if category in values])
    hatch, colour = HATCHES[place // len(COLOURS) % len(HATCHES)], COLOURS[place % len(COLOURS)]
    axes.barh(heights, widths, thickness * 0.92, color=colour, label=short(model), hatch=hatch, edgecolor="white")
    for height, width in zip(heights, widths, strict=True):
        axes.text(width + 1, height, f"{width:.1f}", va="center", fontsize=7.5)


def _groups(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows with a value by variant and metric, without groups that no model was measured in."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for variant in dict.fromkeys(row["variant"] for row in rows):
        for metric in overall_metrics(rows, variant):
            key = (variant, metric)
            members = [row for row in rows if (row["variant"], row["metric"]) == key and row["value"] is not None]
            if any(row["source"] == "measured" for row in members):
                groups[key] = members
    return groups


def _colour_places(rows: Sequence[Row]) -> dict[str, int]:
    models = dict.fromkeys(row["model"] for row in rows if row["source"] == "measured")
    return {model: place for place, model in enumerate(models)}


def _count_lines(rows: Sequence[Row]) -> int:
    sources = [row["source"] for row in rows]
    # All published values share one line.
    return sources.count("measured") + ("published" in sources)


def _draw_group(
    axes: Axes, rows: Sequence[Row], *, top: float, ticks: dict[float, str], places: Mapping[str, int]
) -> float:
    """Draw the lines of one group below `top`, add their names to `ticks`, and return the y of the last line."""
    y = top
    for row in rows:
        if row["source"] != "measured":
            continue
        y -= 1
        ticks[y] = row["model"]
        colour, value = COLOURS[places[row["model"]] % len(COLOURS)], 100 * row["value"]
        if row["low"] is not None:
            axes.plot([100 * row["low"], 100 * row["high"]], [y, y], color=colour, linewidth=2.2)
        axes.plot([value], [y], color=colour, marker="o", markersize=5.5)
    published = [100 * row["value"] for row in rows if row["source"] == "published"]
    if published:
        y -= 1
        ticks[y] = "published"
        axes.plot(published, [y] * len(published), "D", markersize=4.5, markerfacecolor="white", markeredgecolor="0.3")
    # Last, when the number of lines is known: a baseline crosses all of them.
    for row in rows:
        if row["source"] == "baseline" and row["model"] in LINE_STYLES:
            x, style = 100 * row["value"], LINE_STYLES[row["model"]]
            axes.plot([x, x], [y - 0.4, top - 0.6], color="0.35", linestyle=style, linewidth=1.2)
    return y


def _add_legend(figure: Figure, rows: Sequence[Row]) -> None:
    """Explain baselines and published values, as far as the figure has them."""
    axes = figure.axes[0]
    baselines = {row["model"] for row in rows if row["source"] == "baseline"}
    for name, style in LINE_STYLES.items():
        if name in baselines:
            axes.plot([], [], color="0.35", linestyle=style, linewidth=1.2, label=name)
    if any(row["source"] == "published" for row in rows):
        axes.plot([], [], "D", markersize=4.5, markerfacecolor="white", markeredgecolor="0.3", label="published")
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside upper left", ncols=3, frameon=False, handlelength=1.6, columnspacing=1.2)
