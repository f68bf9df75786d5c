"""Build HTML in Python. Text is escaped unless it is `Markup`, so it can never act as markup."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

# Elements without content, which have no end tag. https://html.spec.whatwg.org/multipage/syntax.html#void-elements
VOID_ELEMENTS = ("img", "br")


class Markup(str):
    """A string that is HTML already, and is not escaped again.

    >>> join([Markup("<br>"), "<br>"])
    '<br>&lt;br&gt;'
    """

    __slots__ = ()


MarkupChild: TypeAlias = "str | Markup | None"


def escape(text: str) -> Markup:
    """Escape a text for use in an element or in a quoted attribute.

    >>> escape('a < "b"')
    'a &lt; &quot;b&quot;'
    """
    return Markup(html.escape(text))


def tag(name: str, *children: MarkupChild, **attributes: Any) -> Markup:
    """Build an element.

    Args:
        name: of the element, such as `td`.
        children: texts, which are escaped, and markup. None adds nothing.
        attributes: in the name of an attribute, a trailing `_` is dropped and `_` becomes `-`. True writes the name
            alone, None and False leave the attribute out.

    >>> tag("td", "a < b", class_="number", data_row=0, hidden=True, title=None)
    '<td class="number" data-row="0" hidden>a &lt; b</td>'
    """
    written = ""
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            written += f" {key}"
        # `is`, because 0 == False, and 0 is a value.
        elif value is not None and value is not False:
            written += f' {key}="{escape(str(value))}"'
    start = f"<{name}{written}>"
    if name in VOID_ELEMENTS:
        return Markup(start)
    return Markup(f"{start}{join(children)}</{name}>")


def join(children: Iterable[MarkupChild]) -> Markup:
    """Concatenate texts, which are escaped, and markup; None and empty texts add nothing.

    >>> join(["<", Markup("<br>"), None])
    '&lt;<br>'
    """
    pieces = [child if isinstance(child, Markup) else escape(child) for child in children if child]
    return Markup("".join(pieces))


def table(
    header: Sequence[MarkupChild],
    rows: Iterable[Markup],
    *,
    caption: MarkupChild = None,
    class_: str | None = None,
    sorted_by: int | None = None,
) -> Markup:
    """Build a table in a box that scrolls where the table is wider than the page.

    Args:
        header: the content of each column's head.
        rows: `tr` or `tbody` elements.
        caption: the title of the table.
        class_: of the `table` element. The page's script lets readers sort a table of class `sortable`.
        sorted_by: the column by which the rows are sorted, in descending order.

    >>> table(["n"], [tag("tr", tag("td", "1"))]).count("<tr>")
    2
    """
    columns = [
        tag("th", column, scope="col", aria_sort="descending" if place == sorted_by else None)
        for place, column in enumerate(header)
    ]
    title = tag("caption", caption) if caption else None
    element = tag("table", title, tag("thead", tag("tr", *columns)), *rows, class_=class_)
    # With `tabindex` the box can be scrolled by the keyboard; what can be focused needs a role and a name.
    return tag("div", element, class_="wide", tabindex="0", role="group", aria_label="Table")
