"""HTML from Python, in which a text can never be taken for markup."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


MarkupChild: TypeAlias = "str | Markup | None"


def tag(name: str, *children: MarkupChild, **attributes: Any) -> Markup:
    """An element. A trailing `_` of an attribute's name is dropped, `_` becomes `-`; None and False leave it out.

    >>> tag("td", "a < b", class_="number", data_row=0, hidden=True, title=None)
    '<td class="number" data-row="0" hidden>a &lt; b</td>'
    """
    told = ""
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            told += f" {key}"
        elif value is not None and value is not False:  # 0 equals False, and is a value
            told += f' {key}="{html.escape(str(value))}"'
    inside = join(children)
    return Markup(f"<{name}{told}>" if name in ("img", "br") else f"<{name}{told}>{inside}</{name}>")


def join(children: Iterable[MarkupChild]) -> Markup:
    """Several in a row; None is nothing.

    >>> join(["<", Markup("<br>"), None])
    '&lt;<br>'
    """
    return Markup("".join(each if isinstance(each, Markup) else html.escape(each) for each in children if each))


def table(head: Sequence[MarkupChild], rows: Iterable[Markup], *, caption: MarkupChild = None, class_: str | None = None) -> Markup:
    """A table that scrolls inside the page where it is wider; `rows` are `tr` or `tbody` elements."""
    columns = tag("tr", *(tag("th", each, scope="col") for each in head))
    said = tag("caption", caption) if caption else None
    made = tag("table", said, tag("thead", columns), *rows, class_=class_)
    return tag("div", made, class_="wide", tabindex="0", role="region", aria_label="Table")
