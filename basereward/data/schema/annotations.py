"""What the rows of a data set say about their responses in words and numbers: critiques, reasonings, ratings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from basereward.data.schema.group import Reasoning
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected

COLUMNS = (
    "critiques", "chosen_critique", "rejected_critique", "reasonings", "reasoning", "ratings", "chosen_rating",
    "rejected_rating",
)  # fmt: skip


def read_told(
    cells: Mapping[str, Any], names: Sequence[str], *, rating_range: tuple[float, float] | None = None
) -> dict[str, Any]:
    """Fields of a group.

    Args:
        cells: of the row, under our names.
        names: of the responses' cells.
        rating_range: the lowest and the highest rating, which become 0 and 1; None: ratings are taken as they are.

    Raises:
        RowRejected: `bad_critiques`, `bad_reasonings`, `bad_ratings`.
    """
    return {
        "critiques": _critiques(cells, names),
        "reasonings": _reasonings(cells, count=len(names)),
        "ratings": _ratings(cells, names, rating_range=rating_range),
    }


def _of_each(cells: Mapping[str, Any], names: Sequence[str], *, one: str, all_of: str) -> Any:
    """One value for every response, or None where the row has none."""
    told = cells.get(all_of)
    if names == ["chosen", "rejected"]:
        told = [cells.get(f"chosen_{one}"), cells.get(f"rejected_{one}")] if told is None else told
    return None if isinstance(told, list) and all(each is None for each in told) else told


def _critiques(cells: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    """What was written of every response; nothing where a response has none, which only a critic asks for."""
    told = _of_each(cells, names, one="critique", all_of="critiques")
    if told is None:
        return ()
    if not isinstance(told, list) or len(told) != len(names) or not all(isinstance(each, str) for each in told):
        detail = f"`critiques` is {shown(told)}; one text for every one of the {len(names)} responses is needed"
        raise RowRejected("bad_critiques", detail)
    return tuple(told)


def _ratings(
    cells: Mapping[str, Any], names: Sequence[str], *, rating_range: tuple[float, float] | None
) -> tuple[float, ...]:
    """A number for every response. Whether it is on the scale that a head learns from is for that head to check."""
    given = _of_each(cells, names, one="rating", all_of="ratings")
    if given is None:
        return ()
    unread = "ratings" if "ratings" in cells else "chosen_rating: null, rejected_rating"
    if not isinstance(given, list) or len(given) != len(names) or not all(_is_number(each) for each in given):
        detail = f"`ratings` is {shown(given)}; a number for every one of the {len(names)} responses is needed"
        raise RowRejected("bad_ratings", f"{detail}; columns: {{{unread}: null}} leaves them unread")
    ratings = tuple(float(each) for each in given)
    if rating_range is None:
        return ratings
    low, high = rating_range
    if not all(low <= rating <= high for rating in ratings):
        raise RowRejected("bad_ratings", f"`ratings` is {shown(given)}; rating_range is {low:g} to {high:g}")
    return tuple((rating - low) / (high - low) for rating in ratings)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _reasonings(cells: Mapping[str, Any], *, count: int) -> tuple[Reasoning, ...]:
    """`reasonings`: lists of first, second, text. `reasoning`: a text about the first two responses of the row, called
    1 and 2."""
    told = cells.get("reasonings", [])
    if "reasoning" in cells:
        told = [[0, 1, cells["reasoning"]]]
    if not isinstance(told, list) or not all(_is_reasoning(each, count=count) for each in told):
        detail = f"{shown(told)}; each is needed as [first, second, text] with places among the {count} responses"
        raise RowRejected("bad_reasonings", f"`reasonings` is {detail}")
    return tuple(Reasoning(first, second, text) for first, second, text in told)


def _is_reasoning(value: Any, *, count: int) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 3 or not isinstance(value[2], str):
        return False
    first, second = value[:2]
    return all(type(each) is int and 0 <= each < count for each in (first, second)) and first != second
