"""What a row says of its responses -> preferences: `ranking`, `preferences` with `margins`, or a pair with `margin`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from basereward.data.group import Preference, rank_preferences
from basereward.data.messages import shown
from basereward.errors import DataError


def read_preferences(cells: Mapping[str, Any], *, num_responses: int) -> tuple[Preference, ...]:
    """The preferences among a row's responses; none when the row does not say.

    Args:
        cells: the row's cells that are not null, by column.

    Raises:
        DataError: they contradict the responses or each other.
    """
    given = [name for name in ("ranking", "preferences") if name in cells]
    if "chosen" in cells:
        if given or "margins" in cells:
            raise DataError(
                f"`{(given or ['margins'])[0]}` does not go with `chosen` and `rejected`, which say it already"
            )
        return (Preference(0, 1, margin=_margin(cells.get("margin"), name="margin")),)
    if "margin" in cells:
        raise DataError("`margin` goes with `chosen` and `rejected`; with `preferences` give `margins`, one for each")
    if len(given) == 2:
        raise DataError("the row has both `ranking` and `preferences`; give one of them")
    if "margins" in cells and given != ["preferences"]:
        raise DataError("`margins` goes with `preferences`, one for each")
    if not given:
        return ()
    read = _ranking if given == ["ranking"] else _pairs
    return read(cells, num_responses=num_responses)


def _ranking(cells: Mapping[str, Any], *, num_responses: int) -> tuple[Preference, ...]:
    ranking = cells["ranking"]
    if not isinstance(ranking, list) or not all(type(rank) is int for rank in ranking):
        raise DataError(f"`ranking` is {shown(ranking)}; a list of whole numbers is needed, one rank a response")
    if len(ranking) != num_responses:
        raise DataError(
            f"`ranking` has {len(ranking)} ranks for {num_responses} responses; one rank a response is needed"
        )
    return rank_preferences(ranking)


def _pairs(cells: Mapping[str, Any], *, num_responses: int) -> tuple[Preference, ...]:
    pairs = cells["preferences"]
    if not isinstance(pairs, list):
        raise DataError(f"`preferences` is {shown(pairs)}; a list of [winner, loser] is needed")
    margins = cells.get("margins", [None] * len(pairs))
    if not isinstance(margins, list) or len(margins) != len(pairs):
        raise DataError(f"`margins` is {shown(margins)}; a list of {len(pairs)} is needed, one margin a preference")
    return tuple(
        _pair(pair, margin=margin, place=i, num_responses=num_responses)
        for i, (pair, margin) in enumerate(zip(pairs, margins, strict=True))
    )


def _pair(pair: object, *, margin: object, place: int, num_responses: int) -> Preference:
    where = f"`preferences[{place}]` is {shown(pair)}"
    if not isinstance(pair, list) or len(pair) != 2 or not all(type(index) is int for index in pair):
        raise DataError(f"{where}; [winner, loser] is needed, two indices of responses")
    if not all(0 <= index < num_responses for index in pair):
        raise DataError(f"{where}; the {num_responses} responses have the indices 0 to {num_responses - 1}")
    if pair[0] == pair[1]:
        raise DataError(f"{where}; a response cannot be preferred to itself")
    return Preference(pair[0], pair[1], margin=_margin(margin, name=f"margins[{place}]"))


def _margin(value: object, *, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"`{name}` is {shown(value)}; a finite number is needed")
    return float(value)
