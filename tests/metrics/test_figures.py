"""Figures show the numbers that their legends state."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from basereward.metrics.calibration_error import CalibrationError
from basereward.metrics.figures import margin_histogram, reliability_diagram


def test_histogram_has_every_source_with_all_pairs() -> None:
    """The legend has n and the share of right pairs, the bars of a source sum to 100 %, and 0 is a bin edge."""
    margins = {"digits": torch.tensor([1.0, 2.0, 0.0, -3.0]), "numbers": [0.5, 0.7, 9.0], "none": []}
    figure = margin_histogram(margins)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["digits: n = 4, 50.0% right", "numbers: n = 3, 100.0% right", "none: n = 0, no pairs"]
    stairs = [patch.get_data() for patch in figure.axes[0].patches]
    assert [float(np.sum(step.values)) for step in stairs] == pytest.approx([100, 100, 0])
    assert np.min(np.abs(stairs[0].edges)) == 0
    wrong = stairs[0].values[stairs[0].edges[:-1] < 0]
    assert float(wrong.sum()) == pytest.approx(25)


def test_reliability_diagram_shows_the_calibration_error() -> None:
    """The legend has the value of `CalibrationError`; the bars have every pair."""
    margins = torch.randn(300, generator=torch.Generator().manual_seed(1)) + 0.5
    metric = CalibrationError()
    metric.update(margins)
    figure = reliability_diagram(margins)
    label = figure.axes[0].get_legend().get_texts()[1].get_text()
    assert label == f"n = 300 pairs, calibration error {float(metric.compute()):.3f}"
    assert sum(bar.get_height() for bar in figure.axes[1].patches) == 300


@pytest.mark.filterwarnings("error")
def test_figures_of_empty_and_constant_margins_are_drawn() -> None:
    """Without pairs, or with equal margins, figures are drawn without warnings."""
    for figure in (
        margin_histogram({}),
        margin_histogram({"a": []}),
        margin_histogram({"a": [0.0, 0.0]}),
        margin_histogram({"a": torch.full((3,), 2.0)}),
        reliability_diagram([]),
        reliability_diagram(torch.zeros(3)),
        reliability_diagram([800.0, -800.0]),
    ):
        file = io.BytesIO()
        figure.savefig(file, format="png")
        assert file.getvalue().startswith(b"\x89PNG")


def _boxes(figure: Figure) -> list[tuple[float, float, float, float]]:
    """Return the boxes of the axes with their texts and of the legend, in pixels: left, bottom, right, top."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    return [artist.get_tightbbox(renderer).extents for artist in (*figure.axes, *figure.legends)]


@pytest.mark.parametrize("sources", [1, 3, 30])
def test_no_text_is_cut_or_covered(sources: int) -> None:
    """All texts are inside the figure, and neither axes nor the legend overlap, with large numbers of pairs too."""
    margins = {f"a_source_with_a_long_name_{i}": torch.linspace(-5, 900, 40_000) for i in range(sources)}
    for figure in (margin_histogram(margins), reliability_diagram(torch.cat(list(margins.values())))):
        figure.canvas.draw()
        boxes = _boxes(figure)
        assert len(boxes) == 2
        for left, bottom, right, top in boxes:
            assert left >= 0
            assert bottom >= 0
            assert right <= figure.bbox.width
            assert top <= figure.bbox.height
        assert boxes[0][1] >= boxes[1][3], "the lower one begins below the upper one"


def test_pyplot_is_not_imported() -> None:
    """Figures and backend of a notebook do not change."""
    before = "matplotlib.pyplot" in sys.modules
    margin_histogram({"a": [1.0]})
    assert ("matplotlib.pyplot" in sys.modules) == before
