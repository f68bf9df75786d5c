"""Reads preferences from a row: a pair with `margin`, `ranking`, `preferences` with `margins`, or `ratings` alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from basereward.data.schema.annotations import RATINGS
from basereward.data.schema.group import Group, Preference, rank_preferences
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import ColumnRejected, RowRejected


def read_preferences(
    cells: Mapping[str, Any], *, num_responses: int, ratings: Sequence[float] = ()
) -> tuple[Preference, ...]:
    """Read the preferences among the responses of a row; none if the row has no such column.

    Args:
        cells: the cells of the row that are not null, by our column names.
        num_responses: the number of responses.
        ratings: one per response, higher is better. They rank the responses if no other column does.

    Raises:
        RowRejected: the columns contradict the responses or each other.

    >>> read_preferences({}, num_responses=2, ratings=(1.0, 4.0))
    (Preference(winner=1, loser=0, weight=1.0, margin=None, tie=False),)
    """
    if "chosen" in cells or "chosen_images" in cells:
        return _chosen_over_rejected(cells)
    _check_general_form(cells)
    if "ranking" in cells:
        return _ranking(cells, num_responses=num_responses)
    if "preferences" in cells:
        return _pairs(cells, num_responses=num_responses)
    best_first = sorted(set(ratings), reverse=True)
    return rank_preferences([best_first.index(rating) for rating in ratings])


def _chosen_over_rejected(cells: Mapping[str, Any]) -> tuple[Preference, ...]:
    """Read the preference of a row in the pair form, whose response 0 is `chosen`.

    Raises:
        RowRejected: `conflicting_columns` (the row also has columns of the general form); `bad_margin`.
    """
    for name in ("ranking", "preferences", "margins"):
        if name in cells:
            raise RowRejected(
                "conflicting_columns",
                f"the row has `{name}` and also `chosen` and `rejected`, which are a preference already; give one of "
                "them",
            )
    return (Preference(0, 1, margin=_margin(cells.get("margin"), name="margin")),)


def _check_general_form(cells: Mapping[str, Any]) -> None:
    """Check that the columns of a row in the general form do not contradict each other.

    Raises:
        RowRejected: `conflicting_columns`.
    """
    if "margin" in cells:
        detail = "`margin` belongs to `chosen` and `rejected`; with `preferences` give `margins`, one per preference"
        raise RowRejected("conflicting_columns", detail)
    if "ranking" in cells and "preferences" in cells:
        raise RowRejected("conflicting_columns", "the row has both `ranking` and `preferences`; give one of them")
    if "margins" in cells and "preferences" not in cells:
        raise RowRejected("conflicting_columns", "`margins` belongs to `preferences`, one margin per preference")


def check_ratings(preferences: Sequence[Preference], ratings: Sequence[float]) -> None:
    """Check that no winner is rated lower than its loser.

    Raises:
        ColumnRejected: `contradicting_ratings`.

    >>> check_ratings([Preference(0, 1)], [0.1, 0.8])
    Traceback (most recent call last):
    basereward.data.schema.rejections.ColumnRejected: response 0 is preferred to response 1 and rated lower, 0.1 ...
    """
    if not ratings:
        return
    for preference in preferences:
        winner, loser = ratings[preference.winner], ratings[preference.loser]
        if not preference.tie and winner < loser:
            pair = f"response {preference.winner} is preferred to response {preference.loser} and rated lower"
            raise ColumnRejected(
                "contradicting_ratings",
                f"{pair}, {winner:g} against {loser:g}; correct the row, or leave the ratings unread",
                columns=RATINGS,
            )


def _ranking(cells: Mapping[str, Any], *, num_responses: int) -> tuple[Preference, ...]:
    """Read `ranking`, one rank per response."""
    ranking = cells["ranking"]
    # `type(...) is int`, because `isinstance(True, int)` is true.
    if not isinstance(ranking, list) or not all(type(rank) is int for rank in ranking):
        detail = f"`ranking` is {shown(ranking)}; a list of integers is needed, one rank per response"
        raise RowRejected("wrong_type", detail)
    if len(ranking) != num_responses:
        raise RowRejected(
            "bad_ranking",
            f"`ranking` has {len(ranking)} ranks for {num_responses} responses; one rank per response is needed",
        )
    return rank_preferences(ranking)


def _pairs(cells: Mapping[str, Any], *, num_responses: int) -> tuple[Preference, ...]:
    """Read `preferences`, a list of [winner, loser], with optional `margins`."""
    pairs = cells["preferences"]
    if not isinstance(pairs, list):
        raise RowRejected("wrong_type", f"`preferences` is {shown(pairs)}; a list of [winner, loser] is needed")
    margins = cells.get("margins", [None] * len(pairs))
    if not isinstance(margins, list) or len(margins) != len(pairs):
        detail = f"`margins` is {shown(margins)}; a list of {len(pairs)} is needed, one margin per preference"
        raise RowRejected("bad_margin", detail)
    return tuple(
        _pair(pair, margin=margin, place=i, num_responses=num_responses)
        for i, (pair, margin) in enumerate(zip(pairs, margins, strict=True))
    )


def _pair(pair: object, *, margin: object, place: int, num_responses: int) -> Preference:
    """Read the item with index `place` of `preferences`."""
    where = f"`preferences[{place}]` is {shown(pair)}"
    if not isinstance(pair, list) or len(pair) != 2 or not all(type(index) is int for index in pair):
        raise RowRejected("bad_preference", f"{where}; [winner, loser] is needed, two indices of responses")
    if not all(0 <= index < num_responses for index in pair):
        detail = f"{where}; the {num_responses} responses have the indices 0 to {num_responses - 1}"
        raise RowRejected("preference_out_of_range", detail)
    if pair[0] == pair[1]:
        raise RowRejected("preference_to_itself", f"{where}; a response cannot be preferred to itself")
    return Preference(pair[0], pair[1], margin=_margin(margin, name=f"margins[{place}]"))


def _margin(value: object, *, name: str) -> float | None:
    """Read a margin, 0 or more; null: unknown."""
    if value is None:
        return None
    try:
        margin = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        # An integer of hundreds of digits.
        margin = math.inf
    if not math.isfinite(margin):
        raise RowRejected("bad_margin", f"`{name}` is {shown(value)}; a finite number is needed")
    if margin < 0:
        # With a negative margin, the loss would be content with a winner that is scored below its loser.
        raise ColumnRejected(
            "negative_margin",
            f"`{name}` is {shown(value)}: it says by how much the winner is better, and here that it is worse; swap "
            "the responses, or leave the margins unread",
            columns=(name.partition("[")[0],),
        )
    return margin


def reference_answers(group: Group) -> tuple[str, ...]:
    """The texts that are right responses: preferred to another, and none is preferred to them; or the only response.

    Responses with images are left out: they are no text that a model could write.

    A tie with a right response is right too, where nothing else is preferred to it; the order of preferences does not
    matter.

    >>> from basereward.data.schema.group import Preference
    >>> reference_answers(Group("a", "sums", (), ("4", "5", "four"), (Preference(0, 1), Preference(2, 1))))
    ('4', 'four')
    >>> reference_answers(Group("a", "sums", (), ("4", "5")))
    ()
    """
    if len(group.responses) == 1:
        return _texts(group, [0])
    decided = [preference for preference in group.preferences if not preference.tie]
    winners = {preference.winner for preference in decided}
    losers = {preference.loser for preference in decided}
    ties = [{preference.winner, preference.loser} for preference in group.preferences if preference.tie]
    return _texts(group, sorted(_with_ties(winners - losers, ties, losers)))


def _texts(group: Group, places: Sequence[int]) -> tuple[str, ...]:
    """The responses with these indices that have no images."""
    return tuple(group.responses[place] for place in places if not group.images_of(place))


def _with_ties(best: set[int], ties: Sequence[set[int]], losers: set[int]) -> set[int]:
    """The best responses, and those that tie with one of them and lose to none.

    >>> _with_ties({0}, [{1, 2}, {0, 1}, {0, 3}], losers={3})
    {0, 1, 2}
    """
    best = set(best)
    # A tie may follow from one that stands after it.
    for _ in ties:
        for pair in ties:
            if pair & best:
                best |= pair - losers
    return best
