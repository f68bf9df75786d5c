"""Create figures, embed them in a page, and save them beside it."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from basereward.io.files import write_atomic

# Inches. At this width a phone shows the figure unscaled, so that its letters are as large as those of the page.
WIDTH = 4.6
# Of a name in a figure; a longer one would leave no room for the marks.
MAX_NAME_CHARACTERS = 23
# CSS pixels per inch. https://www.w3.org/TR/css-values-4/#absolute-lengths
CSS_DPI = 96
# Colours of the figures -> those in dark mode. The palette itself is legible on both backgrounds, except for black.
DARK_COLOURS = {
    "#000000": "#e7e8ea",
    "#ffffff": "#1f2226",
    "#e6e6e6": "#3d4249",
    "#666666": "#a3a8b0",
    "#595959": "#b4b8bf",
    "#4d4d4d": "#c3c7cd",
}
# Without the time of day, the same figure gives the same bytes.
FIXED_METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}


@contextmanager
def plain() -> Iterator[None]:
    """Within this context, figures show names literally: a dollar sign starts no formula.

    >>> with plain():
    ...     mpl.rcParams["text.parse_math"]
    False
    """
    with mpl.rc_context({"text.parse_math": False, "font.size": 9, "hatch.linewidth": 0.6}):
        yield


def blank(*, height: float) -> tuple[Figure, Axes]:
    """Create an empty figure.

    Args:
        height: in inches.

    >>> figure, axes = blank(height=2.0)
    >>> figure.get_size_inches().tolist()
    [4.6, 2.0]
    """
    # Not by pyplot: its list of open figures would keep every figure in memory.
    figure = Figure(figsize=(WIDTH, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_axisbelow(True)
    # The page has its own background, which is dark in dark mode.
    axes.patch.set_alpha(0.0)
    return figure, axes


def drawn(figure: Figure) -> Figure:
    """Compute the layout once, for all files of the figure, and return the figure.

    >>> figure, axes = blank(height=2.0)
    >>> drawn(figure) is figure
    True
    """
    # Inside of `plain`, whose settings decide on the size of the letters.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def short(name: str) -> str:
    """Cut a name that is too long for a figure.

    >>> short("overall"), short("a name that is longer than there is room for")
    ('overall', 'a name that is longer …')
    """
    return name if len(name) <= MAX_NAME_CHARACTERS else f"{name[: MAX_NAME_CHARACTERS - 1]}…"


def as_bytes(figure: Figure, kind: Literal["svg", "png", "pdf"]) -> bytes:
    """Encode a figure, deterministically. PNG has 200 dots per inch.

    >>> figure, axes = blank(height=2.0)
    >>> as_bytes(figure, "png")[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    # matplotlib derives the ids of SVG elements from this salt, or else from a random one.
    with mpl.rc_context({"svg.hashsalt": "basereward"}):
        background = "none" if kind == "svg" else "white"
        figure.savefig(buffer, format=kind, dpi=200, metadata=FIXED_METADATA[kind], facecolor=background)
    return buffer.getvalue()


def _with_dark_mode(svg: bytes) -> bytes:
    """Add a style sheet that replaces colours in dark mode. An image follows the colour scheme of its page."""
    # Letters have no colour of their own, which is black. `!important`, because elements have style attributes.
    rules = [f"svg{{fill:{DARK_COLOURS['#000000']}}}"]
    for colour, dark in DARK_COLOURS.items():
        for key in ("fill", "stroke"):
            rules.append(f'[style*="{key}: {colour}"]{{{key}:{dark}!important}}')
    sheet = f"<style>@media (prefers-color-scheme:dark){{{''.join(rules)}}}</style>"
    return svg.replace(b"<defs>", f"{sheet}<defs>".encode(), 1)


def embedded(figure: Figure) -> dict[str, Any]:
    """Encode a figure for a page: its data URI `uri`, and its `width` and `height` in CSS pixels.

    The image has no background, and follows the colour scheme of the page.

    >>> figure, axes = blank(height=2.0)
    >>> embedded(figure)["height"]
    192
    """
    svg = base64.b64encode(_with_dark_mode(as_bytes(figure, "svg"))).decode()
    width, height = (round(CSS_DPI * inches) for inches in figure.get_size_inches())
    return {"uri": f"data:image/svg+xml;base64,{svg}", "width": width, "height": height}


def save(figure: Figure, folder: Path, stem: str, *kinds: Literal["svg", "png", "pdf"]) -> list[str]:
    """Write a figure to one file per kind.

    Args:
        figure: laid out by `drawn`.
        folder: of the files.
        stem: of their names; characters that a file name should not have become `_`.
        kinds: the formats.

    Returns:
        The paths of the files, in the order of `kinds`.

    >>> import tempfile
    >>> figure, axes = blank(height=2.0)
    >>> [Path(file).name for file in save(figure, Path(tempfile.mkdtemp()), "a figure", "png")]
    ['a_figure.png']
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", stem)
    files = [folder / f"{name}.{kind}" for kind in kinds]
    for file, kind in zip(files, kinds, strict=True):
        write_atomic(file, as_bytes(figure, kind))
    return list(map(str, files))
