"""Say in words and numbers what figures show, for those who do not see them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from basereward.evaluation.reports.benchmark_figures import overall_metrics
from basereward.evaluation.reports.numbers import Row

# A change by less than this share of the range of the whole figure is no trend.
FLAT = 0.05


def line_text(figure: Figure) -> str:
    """The trend of every line of a figure that has a name: its first and its last point.

    >>> figure = Figure()
    >>> _ = figure.subplots().plot([10, 20, 30], [0.7, 0.5, 0.4], label="linear")
    >>> _ = figure.axes[0].set(xlabel="steps", ylabel="loss")
    >>> line_text(figure)
    'loss by steps. linear falls from 0.7 at 10 to 0.4 at 30.'
    """
    axes = figure.axes[0]
    # matplotlib gives unnamed lines a name that starts with an underscore.
    lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    points = [(str(line.get_label()), np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in lines]
    values = np.concatenate([y for _, _, y in points]) if points else np.zeros(1)
    flat = FLAT * float(np.ptp(values))
    sentences = [_trend(name, x, y, flat=flat) for name, x, y in points if len(x)]
    return " ".join([f"{axes.get_ylabel()} by {axes.get_xlabel()}.", *sentences])


def interval_text(rows: Sequence[Row]) -> str:
    """The values of a forest plot with their intervals, the best first, and then the baselines.

    >>> key = {"variant": "official", "metric": "overall"}
    >>> ours = {**key, "source": "measured", "model": "ours", "value": 0.7, "low": 0.6, "high": 0.8}
    >>> interval_text([ours, {**key, "source": "baseline", "model": "random answer", "value": 0.5, "low": None}])
    'official overall: ours 70.0 % (60.0 to 80.0); random answer 50.0 %.'
    """
    sentences: list[str] = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        for metric in overall_metrics(rows, variant):
            members = [row for row in rows if (row["variant"], row["metric"]) == (variant, metric)]
            if any(row["source"] == "measured" and row["value"] is not None for row in members):
                sentences.append(f"{variant} {metric}: {'; '.join(_values(members))}.")
    return " ".join(sentences)


def category_text(rows: Sequence[Row]) -> str:
    """The values of each model in the categories of one variant.

    >>> key = {"variant": "official", "source": "measured", "model": "ours"}
    >>> category_text([{**key, "metric": "overall", "value": 0.7}, {**key, "metric": "general", "value": 0.6}])
    'ours: general 60.0 %.'
    """
    overall = overall_metrics(rows, rows[0]["variant"])
    values_by_model: dict[str, list[str]] = {}
    for row in rows:
        if row["source"] == "measured" and row["value"] is not None and row["metric"] not in overall:
            values_by_model.setdefault(row["model"], []).append(f"{row['metric']} {100 * row['value']:.1f} %")
    return " ".join(f"{model}: {', '.join(values)}." for model, values in values_by_model.items())


def _trend(name: str, x: np.ndarray, y: np.ndarray, *, flat: float) -> str:
    first, last = f"{y[0]:.3g} at {x[0]:.3g}", f"{y[-1]:.3g} at {x[-1]:.3g}"
    if len(x) == 1:
        return f"{name} is {first}."
    change = float(y[-1] - y[0])
    verb = "stays about level" if abs(change) <= flat else "rises" if change > 0 else "falls"
    return f"{name} {verb} from {first} to {last}."


def _values(rows: Sequence[Row]) -> list[str]:
    by_source: dict[str, list[Row]] = {"measured": [], "baseline": [], "published": []}
    for row in rows:
        if row["value"] is not None:
            by_source[row["source"]].append(row)
    measured = sorted(by_source["measured"], key=lambda row: -float(row["value"]))
    texts = [_value(row) for row in [*measured, *by_source["baseline"]]]
    published = [100 * row["value"] for row in by_source["published"]]
    if published:
        texts.append(f"{len(published)} published from {min(published):.1f} to {max(published):.1f} %")
    return texts


def _value(row: Row) -> str:
    low, high = row.get("low"), row.get("high")
    interval = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"
    return f"{row['model']} {100 * row['value']:.1f} %{interval}"
