"""An extension of Griffe for two habits of the package's docstrings that its Google style does not know."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from griffe import Docstring, Extension, Object

GROUPED = re.compile(r"(?P<indent> +)(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)+): ")
PROMPT = re.compile(r" *>>> ")


class DocstringHabits(Extension):
    """Rewrites docstrings before they are parsed: see `rewrite`."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Called by Griffe for every object that it has read."""
        if isinstance(obj.docstring, Docstring):
            obj.docstring.value = rewrite(obj.docstring.value)


def rewrite(text: str) -> str:
    """A docstring with fenced examples, and an entry of its own for every argument.

    >>> rewrite("Args:\\n    low, high: bounds.").splitlines()
    ['Args:', '    low: bounds.', '    high: See `low`.']
    >>> rewrite(">>> 1 + 1\\n2").splitlines()
    ['```pycon', '>>> 1 + 1', '2', '```']
    """
    return "\n".join(_fenced(_split(text.splitlines())))


def _split(lines: list[str]) -> Iterator[str]:
    """The lines with `a, b: text` as two entries; the second comes after the lines that continue the first."""
    pending: list[str] = []
    indent = 0
    for line in lines:
        if pending and len(line) - len(line.lstrip()) <= indent:
            yield from pending
            pending = []
        match = GROUPED.match(line)
        if match is None:
            yield line
            continue
        first, *others = match["names"].split(", ")
        indent = len(match["indent"])
        pending = [f"{match['indent']}{name}: See `{first}`." for name in others]
        yield f"{match['indent']}{first}: {line[match.end() :]}"
    yield from pending


def _fenced(lines: Iterator[str]) -> Iterator[str]:
    """The lines with a fence around every example, which Markdown would read as a quotation with links."""
    fence = ""
    for line in lines:
        if not fence and PROMPT.match(line):
            fence = " " * (len(line) - len(line.lstrip())) + "```"
            yield f"{fence}pycon"
        if fence and not line.strip():
            yield fence
            fence = ""
        yield line
    if fence:
        yield fence
