"""Reads the annotations of responses: critiques, reasonings and ratings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from basereward.data.schema.group import Reasoning
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import ColumnRejected, RowRejected

COLUMNS = (
    "critiques", "chosen_critique", "rejected_critique", "reasonings", "reasoning", "ratings", "chosen_rating",
    "rejected_rating",
)  # fmt: skip
RATINGS = ("ratings", "chosen_rating", "rejected_rating")


def read_annotations(
    cells: Mapping[str, Any], names: Sequence[str], *, rating_range: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Read the fields `critiques`, `reasonings` and `ratings` of a group.

    Args:
        cells: the cells of the row that are not null, by our column names.
        names: the names of the responses' cells, such as `chosen` or `responses[0]`.
        rating_range: the lowest and the highest rating, which become 0 and 1; None: ratings stay as they are.

    Raises:
        RowRejected: `bad_critiques`, `bad_reasonings`, `bad_ratings`.

    >>> read_annotations({"chosen_rating": 5, "rejected_rating": 2}, ["chosen", "rejected"], rating_range=(1, 5))
    {'critiques': (), 'reasonings': (), 'ratings': (1.0, 0.25)}
    """
    return {
        "critiques": _critiques(cells, names),
        "reasonings": _reasonings(cells, count=len(names)),
        "ratings": _ratings(cells, names, rating_range=rating_range),
    }


def _values_by_response(cells: Mapping[str, Any], names: Sequence[str], *, singular: str, plural: str) -> Any:
    """Read a list with one value per response from the column of lists or from those of a pair; None if empty."""
    values = cells.get(plural)
    # The names of a row in the general form are `responses[0]`, `responses[1]`, ...; it has no columns of a pair.
    if values is None and names == ["chosen", "rejected"]:
        values = [cells.get(f"chosen_{singular}"), cells.get(f"rejected_{singular}")]
    if isinstance(values, list) and all(value is None for value in values):
        return None
    return values


def _critiques(cells: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    """Read one critique per response; empty if the row has none, since only critic heads need them."""
    critiques = _values_by_response(cells, names, singular="critique", plural="critiques")
    if critiques is None:
        return ()
    is_list = isinstance(critiques, list) and len(critiques) == len(names)
    if not is_list or not all(isinstance(critique, str) for critique in critiques):
        detail = f"`critiques` is {shown(critiques)}; a list of {len(names)} texts is needed, one per response"
        raise RowRejected("bad_critiques", detail)
    return tuple(critiques)


def _ratings(
    cells: Mapping[str, Any], names: Sequence[str], *, rating_range: tuple[float, float] | None
) -> tuple[float, ...]:
    """Read one rating per response; empty if the row has none.

    Heads that learn ratings check their range, because other heads can use ratings of any range to rank responses.
    """
    values = _values_by_response(cells, names, singular="rating", plural="ratings")
    if values is None:
        return ()
    is_list = isinstance(values, list) and len(values) == len(names)
    if not is_list or not all(_is_number(value) for value in values):
        detail = f"`ratings` is {shown(values)}; a list of {len(names)} numbers is needed, one per response"
        raise ColumnRejected("bad_ratings", f"{detail}; correct the row, or leave the ratings unread", columns=RATINGS)
    ratings = tuple(map(float, values))
    return ratings if rating_range is None else _scaled(ratings, rating_range)


def _scaled(ratings: tuple[float, ...], rating_range: tuple[float, float]) -> tuple[float, ...]:
    """Map ratings linearly from their range to 0 to 1.

    Raises:
        RowRejected: `bad_ratings` (a rating is outside of the range).
    """
    low, high = rating_range
    scaled = []
    for rating in ratings:
        if not low <= rating <= high:
            raise RowRejected("bad_ratings", f"`ratings` contains {rating:g}; rating_range is {low:g} to {high:g}")
        scaled.append((rating - low) / (high - low))
    return tuple(scaled)


def _is_number(value: object) -> bool:
    # In Python `True` is an int, but a truth value is not a rating.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        # An integer of hundreds of digits.
        return False


def _reasonings(cells: Mapping[str, Any], *, count: int) -> tuple[Reasoning, ...]:
    """Read `reasonings`, a list of [first, second, text], or `reasoning`, a text about the first two responses."""
    items = cells.get("reasonings", [])
    if "reasoning" in cells:
        items = [[0, 1, cells["reasoning"]]]
    if not isinstance(items, list) or not all(_is_reasoning(item, count=count) for item in items):
        detail = f"{shown(items)}; a list of [first, second, text] is needed, with indices of the {count} responses"
        raise RowRejected("bad_reasonings", f"`reasonings` is {detail}")
    return tuple(Reasoning(first, second, text) for first, second, text in items)


def _is_reasoning(value: Any, *, count: int) -> bool:
    """Whether a value is [first, second, text] with two different indices below `count`."""
    if not isinstance(value, list | tuple) or len(value) != 3 or not isinstance(value[2], str):
        return False
    first, second = value[:2]
    return all(type(index) is int and 0 <= index < count for index in (first, second)) and first != second
