"""Votes of a judge that sees the responses in an order, and what simple rules would say."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

from basereward.errors import DataError, unknown
from basereward.evaluation.items import Item, Outcome

AnswerOrder: TypeAlias = Literal["fixed", "random", "both"]
ORDERS: tuple[AnswerOrder, ...] = get_args(AnswerOrder)
Ask: TypeAlias = Callable[[Item, Sequence[int]], int | None]
"""`(item, indices of its responses in the order shown) -> the place of the chosen one, or None`."""

Baseline: TypeAlias = Literal["random", "longer", "shorter", "first"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)


def judged_by(
    ask: Ask, items: Sequence[Item], *, order: AnswerOrder = "random", votes: int = 1, seed: int = 0
) -> list[Outcome]:
    """Asks a judge about every item.

    Args:
        order: `fixed` shows responses as they are stored, where the right one may always be first; `random` shuffles
            them anew for every vote; `both` asks every vote forward and backward, which makes two.
        votes: of an item; twice as many are kept under `both`.
        seed: of the shuffling; an item's order does not depend on the other items.

    Returns:
        Outcomes whose votes are indices of the stored responses, whatever order was shown.

    Raises:
        DataError: `votes` is below 1, or the order is unknown.
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


def _orders(item: Item, order: AnswerOrder, key: str) -> list[list[int]]:
    stored = list(range(len(item.responses)))
    if order == "fixed":
        return [stored]
    if order == "both":
        return [stored, stored[::-1]]
    random.Random(key).shuffle(stored)  # a shuffle of two is a coin flip
    return [stored]


def baseline(name: Baseline, items: Sequence[Item], *, seed: int = 0) -> list[Outcome]:
    """What a rule that reads nothing would score: a random number for every answer to a prompt, the longer or the
    shorter answer (in characters), the first.

    Answers of equal length tie, which is wrong.
    """
    if name == "random":
        return _random_scores(items, seed=seed)
    rules: dict[Baseline, Callable[[int, str], float]] = {
        "longer": lambda index, text: float(len(text)),
        "shorter": lambda index, text: -float(len(text)),
        "first": lambda index, text: float(index == 0),
    }
    return [
        Outcome(scores=tuple(rules[name](index, text) for index, text in enumerate(item.responses))) for item in items
    ]


def _random_scores(items: Sequence[Item], *, seed: int) -> list[Outcome]:
    """An answer that comes again to the same prompt and pictures has the same score, as from any scorer."""
    coin = random.Random(seed)
    known: dict[str, float] = {}
    outcomes = []
    for item in items:
        keys = [repr((item.prompt, item.images, text)) for text in item.responses]
        for key in keys:
            if key not in known:
                known[key] = coin.random()
        outcomes.append(Outcome(scores=tuple(known[key] for key in keys)))
    return outcomes
