"""Ask a judge about items in an order of their responses, and compute the outcomes of baselines."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

from basereward.errors import DataError, unknown
from basereward.evaluation.items import Item, Outcome

AnswerOrder: TypeAlias = Literal["fixed", "random", "both"]
ORDERS: tuple[AnswerOrder, ...] = get_args(AnswerOrder)
Ask: TypeAlias = Callable[[Item, Sequence[int]], int | None]
"""`(item, indices of its responses in the order shown) -> the place of the chosen response, or None`."""

Baseline: TypeAlias = Literal["random", "longer", "shorter", "first"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
# The score that a baseline gives to a response, from its index and its text.
RULES: dict[Baseline, Callable[[int, str], float]] = {
    "longer": lambda index, text: float(len(text)),
    "shorter": lambda index, text: -float(len(text)),
    "first": lambda index, text: float(index == 0),
}


def judged_by(
    ask: Ask, items: Sequence[Item], *, order: AnswerOrder = "random", votes: int = 1, seed: int = 0
) -> list[Outcome]:
    """Ask a judge about every item.

    Args:
        ask: the judge.
        items: what it is asked about.
        order: of the responses. `fixed`: as stored, where the right one may always come first. `random`: shuffled
            for every vote. `both`: every vote is asked in the stored order and in its reverse.
        votes: per item; `both` gives twice as many.
        seed: of the shuffling. The order of an item does not depend on the other items.

    Returns:
        One outcome per item. Votes are indices of the stored responses, whatever order was shown.

    Raises:
        DataError: `votes` is below 1, or the order is unknown.

    >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a")
    >>> judged_by(lambda item, shown: 0, [item], order="both")[0].votes
    (0, 1)
    """
    if votes < 1:
        raise DataError(f"votes is {votes}; at least 1 is needed")
    if order not in ORDERS:
        raise DataError(unknown("order", order, ORDERS))
    outcomes = []
    for item in items:
        chosen: list[int | None] = []
        for vote in range(votes):
            for shown in _orders(item, order, f"{seed}:{item.row}:{vote}"):
                place = ask(item, shown)
                chosen.append(None if place is None else shown[place])
        outcomes.append(Outcome(votes=tuple(chosen)))
    return outcomes


def baseline(name: Baseline, items: Sequence[Item], *, seed: int = 0) -> list[Outcome]:
    """Compute the outcomes of a baseline.

    Responses of equal length tie under `longer` and `shorter`, and a tie counts as wrong.

    Args:
        name: `random` gives every response a random score, `longer` and `shorter` prefer by the number of characters,
            `first` prefers the first response.
        items: what is scored.
        seed: of `random`.

    Returns:
        One outcome with scores per item.

    >>> item = Item(0, "a", "2 + 2?", ("4", "five"), (0,), (1,), "a")
    >>> baseline("longer", [item])[0].scores
    (1.0, 4.0)
    """
    if name == "random":
        return _random_scores(items, seed=seed)
    return [_rule_outcome(RULES[name], item) for item in items]


def _orders(item: Item, order: AnswerOrder, key: str) -> list[list[int]]:
    stored = list(range(len(item.responses)))
    if order == "fixed":
        return [stored]
    if order == "both":
        return [stored, stored[::-1]]
    random.Random(key).shuffle(stored)
    return [stored]


def _rule_outcome(rule: Callable[[int, str], float], item: Item) -> Outcome:
    return Outcome(scores=tuple(rule(index, text) for index, text in enumerate(item.responses)))


def _random_scores(items: Sequence[Item], *, seed: int) -> list[Outcome]:
    rng = random.Random(seed)
    # Like a real scorer, this one gives equal responses to the same prompt and images equal scores.
    score_by_key: dict[str, float] = {}
    outcomes = []
    for item in items:
        shown = item.response_images or [()] * len(item.responses)
        keys = [repr((item.prompt, item.images, *own)) for own in zip(item.responses, shown, strict=True)]
        for key in keys:
            if key not in score_by_key:
                score_by_key[key] = rng.random()
        outcomes.append(Outcome(scores=tuple(score_by_key[key] for key in keys)))
    return outcomes
