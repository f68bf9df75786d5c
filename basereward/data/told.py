"""What the rows of a data set say about their responses in words and numbers: critiques, reasonings, ratings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from basereward.data.group import Reasoning
from basereward.data.messages import shown
from basereward.data.screening import RowLost

COLUMNS = (
    "critiques", "chosen_critique", "rejected_critique", "reasonings", "reasoning", "ratings", "chosen_rating",
    "rejected_rating",
)  # fmt: skip


def read_told(cells: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Fields of a group.

    Args:
        cells: of the row, under our names.
        names: of the responses' cells.

    Raises:
        RowLost: `bad_critiques`, `bad_reasonings`, `bad_ratings`.
    """
    return {
        "critiques": _critiques(cells, names),
        "reasonings": _reasonings(cells, count=len(names)),
        "ratings": _ratings(cells, names),
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
        raise RowLost("bad_critiques", detail)
    return tuple(told)


def _ratings(cells: Mapping[str, Any], names: Sequence[str]) -> tuple[float, ...]:
    told = _of_each(cells, names, one="rating", all_of="ratings")
    if told is None:
        return ()
    if not isinstance(told, list) or len(told) != len(names) or not all(_is_share(each) for each in told):
        detail = (
            f"`ratings` is {shown(told)}; a number from 0 to 1 for every one of the {len(names)} responses is needed"
        )
        raise RowLost("bad_ratings", detail)
    return tuple(float(each) for each in told)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _reasonings(cells: Mapping[str, Any], *, count: int) -> tuple[Reasoning, ...]:
    """`reasonings`: lists of first, second, text. `reasoning`: a text about the first two responses of the row, called
    1 and 2."""
    told = cells.get("reasonings", [])
    if "reasoning" in cells:
        told = [[0, 1, cells["reasoning"]]]
    if not isinstance(told, list) or not all(_is_reasoning(each, count=count) for each in told):
        detail = f"{shown(told)}; each is needed as [first, second, text] with places among the {count} responses"
        raise RowLost("bad_reasonings", f"`reasonings` is {detail}")
    return tuple(Reasoning(first, second, text) for first, second, text in told)


def _is_reasoning(value: Any, *, count: int) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 3 or not isinstance(value[2], str):
        return False
    first, second = value[:2]
    return all(type(each) is int and 0 <= each < count for each in (first, second)) and first != second
