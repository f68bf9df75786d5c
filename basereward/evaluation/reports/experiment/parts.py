"""Elements that several sections of the page of an experiment use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from basereward.evaluation.reports.drawing import embedded
from basereward.evaluation.reports.experiment.figures import colour
from basereward.evaluation.reports.markup import Markup, MarkupChild, escape, join, tag
from basereward.evaluation.reports.page import render_static_page

NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Drawing:
    """A figure of the page.

    >>> Drawing("learning", "Learning curves", Figure()).name
    'learning'
    """

    name: str
    """the stem of its files"""
    title: str
    figure: Figure
    alt: str = ""
    """what the figure shows, in words and numbers, for those who do not see it"""


@dataclass(frozen=True)
class Section:
    """A heading of the page with its content.

    >>> Section("cost", "Cost", ["None."]).html()
    '<section id="cost"><h2>Cost</h2>None.</section>'
    """

    name: str
    """the id of its element"""
    title: str
    body: Sequence[MarkupChild]
    drawings: Sequence[Drawing] = ()

    def html(self) -> Markup:
        """The `section` element, figures last."""
        figures = tag("div", *map(_figure, self.drawings), class_="figures") if self.drawings else None
        return tag("section", tag("h2", self.title), *self.body, figures, id=self.name)


def page_of_sections(head: Iterable[MarkupChild], sections: Sequence[Section], *, report: str, title: str) -> str:
    """The page of an experiment or a table: a head, links to its sections, and the sections.

    Args:
        head: above the links.
        sections: in their order.
        report: the number of finished cells and the name, by which a later page with fewer cells is recognized.
        title: of the window.

    >>> "<title>heads</title>" in page_of_sections([], [], report="7 head_depth", title="heads")
    True
    """
    parts = {
        "report": escape(report),
        "head": join(head),
        "contents": join(tag("a", section.title, href=f"#{section.name}") for section in sections),
        "sections": join(section.html() for section in sections),
    }
    return render_static_page("experiment", parts, title=title, styles=["tables"])


def _figure(drawing: Drawing) -> Markup:
    source = embedded(drawing.figure)
    image = tag(
        "img", src=source["uri"], alt=drawing.alt or drawing.title, width=source["width"], height=source["height"]
    )
    return tag("figure", tag("figcaption", drawing.title), image)


def chip(place: int) -> Markup:
    """A dot in the colour that the recipe at this place has in the figures.

    >>> chip(0)[:5]
    '<svg '
    """
    dot = tag("circle", cx=5, cy=5, r=4.5, fill=colour(place), stroke="#888")
    return tag("svg", dot, viewBox="0 0 10 10", class_="chip", aria_hidden="true")


def percent(share: float | None, digits: int = 1) -> str:
    """Format a share from 0 to 1 in percent.

    >>> percent(0.4567), percent(None)
    ('45.7', '\N{EN DASH}')
    """
    return NONE if share is None else f"{100 * share:.{digits}f}"


def number(value: float | None, digits: int = 1) -> str:
    """Format a number with thousands separators; a dash if there is none or it is not finite.

    >>> number(1234.56), number(None), number(0.00123, 4)
    ('1,234.6', '\N{EN DASH}', '0.0012')
    """
    return NONE if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"


def signed(points: float, digits: int) -> str:
    """Format a difference with its sign, without a sign if it rounds to 0.

    >>> signed(-0.26, 1), signed(0.04, 1)
    ('\N{MINUS SIGN}0.3', '0.0')
    """
    text = f"{points:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def cell(*children: MarkupChild, class_: str = "number", **attributes: object) -> Markup:
    """A `td` element, of a number by default.

    >>> cell("82.2")
    '<td class="number">82.2</td>'
    """
    return tag("td", *children, class_=class_, **attributes)


def note(*children: MarkupChild) -> Markup:
    """A paragraph in small letters.

    >>> note("Means over seeds.")
    '<p class="note">Means over seeds.</p>'
    """
    return tag("p", *children, class_="note")


def command(text: str) -> Markup:
    """A command to type.

    >>> command("make ui")
    '<code>make ui</code>'
    """
    return tag("code", text)


def listed(items: Iterable[MarkupChild], *, class_: str | None = None) -> Markup | None:
    """A list; None if there are no items.

    >>> listed(["a", "b"]), listed([])
    ('<ul><li>a</li><li>b</li></ul>', None)
    """
    entries = [tag("li", item) for item in items]
    return tag("ul", join(entries), class_=class_) if entries else None


def row(name: MarkupChild, cells: Iterable[MarkupChild], *, class_: str | None = None) -> Markup:
    """A row of a table, headed by its name.

    >>> row("overall", [cell("82.2")])
    '<tr><th scope="row">overall</th><td class="number">82.2</td></tr>'
    """
    return tag("tr", tag("th", name, scope="row"), *cells, class_=class_)


def shown_name(place: int, name: str, *details: MarkupChild) -> Markup:
    """The name of the recipe at a place, after the dot in its colour.

    >>> shown_name(0, "linear").endswith("linear")
    True
    """
    return join([chip(place), name, *details])
