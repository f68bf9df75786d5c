"""Parses lists and objects in Python's notation, which pandas and `str(...)` write into CSV files."""

from __future__ import annotations

import ast

# Characters. The parser needs about a hundred bytes of memory for each.
MAX_CHARACTERS = 2**20


def parse_python(text: str) -> object:
    """Parse a list or an object of texts, numbers, truth values and None; return any other text as it is.

    >>> parse_python("[{'role': 'user', 'content': \\"It's 4.\\"}]")
    [{'role': 'user', 'content': "It's 4."}]
    >>> parse_python("[array('d')]"), parse_python("[1] + [2]")
    ("[array('d')]", '[1] + [2]')
    """
    if len(text) > MAX_CHARACTERS or text[:1] not in ("[", "{"):
        return text
    try:
        # Literals only: nothing is called or looked up.
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text
    return value if _is_plain(value) else text


def _is_plain(value: object) -> bool:
    """Whether a value has the types that JSON has, so that it is read like JSON."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(inner) for key, inner in value.items())
    return value is None or isinstance(value, str | int | float)
