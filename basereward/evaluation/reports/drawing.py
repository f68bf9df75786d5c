"""How figures are drawn, shown in a page and kept beside it."""

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

WIDTH = 4.6  # inches: on a phone the letters stay as large as those of the page
LETTERS = 23  # of a name
# No time of day in the files: the same figure gives the same bytes.
TIMELESS = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}


@contextmanager
def plain() -> Iterator[None]:
    """Names are shown as they are: a dollar sign starts no formula."""
    with mpl.rc_context({"text.parse_math": False, "font.size": 9, "hatch.linewidth": 0.6}):
        yield


def blank(*, height: float) -> tuple[Figure, Axes]:
    """A figure so many inches high, unknown to pyplot, whose list of figures would keep it alive."""
    figure = Figure(figsize=(WIDTH, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_axisbelow(True)
    return figure, axes


def drawn(figure: Figure) -> Figure:
    """Laid out now, while the letters' settings hold, and once for all files."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def short(name: str) -> str:
    """Cut, so that the marks keep their place.

    >>> short("overall"), short("a name that is longer than there is room for")
    ('overall', 'a name that is longer …')
    """
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"


def as_bytes(figure: Figure, kind: Literal["svg", "png", "pdf"]) -> bytes:
    """The same bytes for the same figure; PNG at 200 dots an inch."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "basereward"}):
        figure.savefig(buffer, format=kind, dpi=200, metadata=TIMELESS[kind])
    return buffer.getvalue()


def shown(figure: Figure) -> dict[str, Any]:
    """`uri`, `width` and `height` of a picture in a page, in pixels."""
    svg = base64.b64encode(as_bytes(figure, "svg")).decode()
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return {"uri": f"data:image/svg+xml;base64,{svg}", "width": width, "height": height}


def keep(figure: Figure, folder: Path, stem: str, *kinds: Literal["svg", "png", "pdf"]) -> list[str]:
    """Writes a figure into a folder, a file a kind, and returns the files."""
    files = [folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', stem)}.{kind}" for kind in kinds]
    for file, kind in zip(files, kinds, strict=True):
        write_atomic(file, as_bytes(figure, kind))
    return list(map(str, files))
