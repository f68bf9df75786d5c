"""Figures of a run: the distribution of its margins, and their calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from basereward.metrics.palette import COLOURS, STYLES
from basereward.metrics.reliability import reliability

Margins: TypeAlias = "Tensor | npt.NDArray[np.floating] | Sequence[float]"
"""score(winner) - score(loser) of P preferences, ties left out."""


def margin_histogram(margins: Mapping[str, Margins]) -> Figure:
    """Draw a histogram of the margins of each source. Margins above 0 are correct.

    Args:
        margins: by source.

    >>> margin_histogram({"digits": [1.0, 2.0, -0.5]}).axes[0].get_xlabel()
    'score(winner) - score(loser), units of the score'
    """
    arrays = {name: _array(values) for name, values in margins.items()}
    figure, axes = _figure(rows=(1,), legend_lines=len(arrays))
    all_margins = np.concatenate([np.zeros(1), *arrays.values()])
    width = (np.ptp(all_margins) or 1.0) / 40
    # 0 is an edge, so that no bar holds both correct and wrong pairs.
    edges = width * np.arange(np.floor(all_margins.min() / width), np.floor(all_margins.max() / width) + 2)
    for i, (name, values) in enumerate(arrays.items()):
        share = f"{np.mean(values > 0):.1%} right" if len(values) else "no pairs"
        # Shares, not counts, so that a small source is as visible as a large one.
        weights = np.full(len(values), 100 / max(len(values), 1))
        heights, _ = np.histogram(values, edges, weights=weights)
        axes[0].stairs(
            heights,
            edges,
            color=COLOURS[i % len(COLOURS)],
            linestyle=STYLES[i % len(STYLES)],
            linewidth=1.8,
            label=f"{name}: n = {len(values):,}, {share}",
        )
    axes[0].axvline(0, color="0.4", linewidth=1)
    axes[0].set_title("Margins: right of 0 the preferred response scores higher")
    axes[0].set_xlabel("score(winner) - score(loser), units of the score")
    axes[0].set_ylabel("share of the source's pairs, %")
    if arrays:
        figure.legend(loc="lower center", frameon=False)
    return figure


def reliability_diagram(margins: Margins) -> Figure:
    """Draw the accuracy against the confidence sigmoid(|margin|), with the number of pairs in each bin below.

    Args:
        margins: of all sources.

    >>> len(reliability_diagram([1.0, 2.0, -0.5]).axes)
    2
    """
    bins = reliability(_array(margins))
    # The histogram below shows which points of the curve rest on few pairs.
    figure, axes = _figure(rows=(3, 1))
    axes[0].plot([0.5, 1], [0.5, 1], color="0.4", linestyle="--", linewidth=1, label="perfectly calibrated")
    label = f"n = {bins.pairs.sum():,} pairs, calibration error {bins.error:.3f}"
    axes[0].plot(bins.called, bins.right, color=COLOURS[0], marker="o", linewidth=1.8, label=label)
    axes[0].set(xlim=(0.5, 1.005), ylim=(-0.02, 1.02), ylabel="accuracy")
    axes[0].set_title("Reliability: accuracy by confidence")
    axes[0].legend(frameon=False)
    axes[1].bar(bins.edges[:-1], bins.pairs, np.diff(bins.edges), align="edge", color=COLOURS[5], edgecolor="white")
    axes[1].set(xlim=(0.5, 1.005), xlabel="confidence, sigmoid(|margin|)", ylabel="pairs")
    return figure


def _array(margins: Margins) -> npt.NDArray[np.float64]:
    if isinstance(margins, Tensor):
        margins = margins.detach().float().cpu().numpy()
    return np.asarray(margins, dtype=np.float64).reshape(-1)


def _figure(*, rows: tuple[int, ...], legend_lines: int = 0) -> tuple[Figure, list[Axes]]:
    """A figure with axes of the given relative heights, and room for a legend of so many lines below them.

    It is made without pyplot, whose list of open figures would keep it in memory. Its margins are fixed: a layout that
    measures every text takes several times as long as the drawing, and a run of a small model draws four figures.
    """
    below = 0.6 + (0.2 + 0.225 * legend_lines if legend_lines else 0)
    # A long legend makes the figure higher, so that the axes keep their height.
    width, height = 7.0, max(4.5, 3.2 + below)
    figure = Figure(figsize=(width, height), dpi=120)
    FigureCanvasAgg(figure)
    figure.subplots_adjust(
        left=0.9 / width, right=1 - 0.2 / width, bottom=below / height, top=1 - 0.4 / height, hspace=0.28
    )
    axes = figure.subplots(len(rows), 1, squeeze=False, height_ratios=rows)[:, 0].tolist()
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="0.9", linewidth=0.8)
        panel.set_axisbelow(True)
    return figure, axes
