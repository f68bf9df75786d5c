"""Pieces that several sections of the page are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from basereward.evaluation.reports.drawing import shown
from basereward.evaluation.reports.experiment.figures import colour
from basereward.evaluation.reports.markup import MarkupChild, Markup, join, tag

NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Drawing:
    """A figure of the page: `name` is that of its files."""

    name: str
    title: str
    figure: Figure


@dataclass(frozen=True)
class Section:
    """A heading of the page and what stands below it."""

    name: str
    title: str
    body: Sequence[MarkupChild]
    drawings: Sequence[Drawing] = ()

    def html(self) -> Markup:
        pictures = tag("div", *map(_picture, self.drawings), class_="figures") if self.drawings else None
        return tag("section", tag("h2", self.title), *self.body, pictures, id=self.name)


def _picture(drawing: Drawing) -> Markup:
    seen = shown(drawing.figure)
    image = tag("img", src=seen["uri"], alt=drawing.title, width=seen["width"], height=seen["height"])
    return tag("figure", tag("figcaption", drawing.title), image)


def chip(place: int) -> Markup:
    """The colour that a recipe has in the figures."""
    dot = tag("circle", cx=5, cy=5, r=4.5, fill=colour(place), stroke="#888")
    return tag("svg", dot, viewBox="0 0 10 10", class_="chip", aria_hidden="true")


def percent(share: float | None, digits: int = 1) -> str:
    """
    >>> percent(0.4567), percent(None)
    ('45.7', '\N{EN DASH}')
    """
    return NONE if share is None else f"{100 * share:.{digits}f}"


def number(value: float | None, digits: int = 1) -> str:
    """
    >>> number(1234.56), number(None), number(0.00123, 4)
    ('1,234.6', '\N{EN DASH}', '0.0012')
    """
    return NONE if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def signed(points: float, digits: int) -> str:
    """A difference, with a sign; none where it rounds to nothing.

    >>> signed(-0.26, 1), signed(0.04, 1)
    ('\N{MINUS SIGN}0.3', '0.0')
    """
    text = f"{points:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def cell(*children: MarkupChild, class_: str = "number", **attributes: object) -> Markup:
    """A cell of a table with numbers."""
    return tag("td", *children, class_=class_, **attributes)


def note(*children: MarkupChild) -> Markup:
    """A small paragraph."""
    return tag("p", *children, class_="note")


def command(text: str) -> Markup:
    """What to type."""
    return tag("code", text)


def listed(items: Iterable[MarkupChild], *, class_: str | None = None) -> Markup | None:
    """A list, or nothing."""
    made = [tag("li", each) for each in items]
    return tag("ul", join(made), class_=class_) if made else None


def row(name: MarkupChild, cells: Iterable[MarkupChild], *, class_: str | None = None) -> Markup:
    """A row of a table with its name."""
    return tag("tr", tag("th", name, scope="row"), *cells, class_=class_)
