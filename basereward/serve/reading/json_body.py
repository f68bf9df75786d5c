"""Parses the JSON body of a request, within limits that hold before and after parsing."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from basereward.errors import DataError
from basereward.io.limits import JSON_DEPTH, nested_deeper

MAX_SEPARATORS = 4_000_000
"""Commas and brackets of a body. A body of 64 MiB could hold twenty million lists, which take gigabytes when parsed;
the text that a request may have holds fewer commas than this."""
MAX_VALUES = 100_000
"""Values in the lists and objects of a body. The validation of its form lists every value that is wrong."""


def parse_body(content: bytes) -> Any:
    """The value of a JSON body.

    Args:
        content: of the body.

    Raises:
        DataError: it is not UTF-8 or not JSON, has a key twice in an object, NaN or an infinity, too many values, or
            is nested too deeply.

    >>> parse_body(b'{"prompt": "2 + 2?"}')
    {'prompt': '2 + 2?'}
    >>> parse_body(b'{"clip": NaN}')
    Traceback (most recent call last):
        ...
    basereward.errors.DataError: the body has the number NaN, which JSON does not have
    """
    if sum(content.count(separator) for separator in (b",", b"[", b"{")) > MAX_SEPARATORS:
        raise DataError(f"the body has more than {MAX_SEPARATORS:,} commas and brackets")
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise DataError(f"the body is not UTF-8: {error}") from error
    except RecursionError:
        raise _too_deep() from None
    except DataError:
        # Of the two hooks; it is a ValueError too.
        raise
    except ValueError as error:
        # JSONDecodeError; or an integer of thousands of digits.
        raise DataError(f"the body is not JSON: {error}") from error
    if nested_deeper(value, JSON_DEPTH):
        raise _too_deep()
    values = _count_values(value)
    if values > MAX_VALUES:
        raise DataError(f"the body has {values:,} values; at most {MAX_VALUES:,} are allowed")
    return value


def _too_deep() -> DataError:
    return DataError(f"the body is JSON nested deeper than {JSON_DEPTH} levels")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """
    Raises:
        DataError: a key occurs twice. Two parsers could read different requests from such a body.
    """
    unique = dict(pairs)
    if len(unique) < len(pairs):
        ((repeated, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise DataError(f"the body has the key {repeated[:80]!r} twice in an object")
    return unique


def _refuse_constant(name: str) -> Any:
    """
    Raises:
        DataError: always; Python's parser calls it for NaN and infinities.
    """
    raise DataError(f"the body has the number {name}, which JSON does not have")


def _count_values(value: Any) -> int:
    """The values in lists and objects, at any depth.

    >>> _count_values({"a": [1, 2], "b": 3})
    4
    """
    if isinstance(value, dict):
        return len(value) + sum(map(_count_values, value.values()))
    return len(value) + sum(map(_count_values, value)) if isinstance(value, list) else 0
