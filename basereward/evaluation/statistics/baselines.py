"""What guessing reaches: a scorer of random numbers, and a judge that tosses a coin, as exactly as can be counted."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import permutations

from basereward.evaluation.items import Item, Outcome

COUNTED = 100_000  # items in all rounds of an exact count
DRAWN = 20_000  # items in all rounds where some prompts have too many orders to be counted
MOST_DRAWS = 100  # rounds then


def chance_rounds(items: Sequence[Item], *, independent: bool, seed: int = 0) -> Iterator[list[Outcome]]:
    """Outcomes of guessing, round by round. The mean of a measure over all rounds is what guessing should reach.

    A prompt with n orders of its answers takes each of them equally often in n rounds, so that the mean is exact for
    every measure that is a sum over prompts, as accuracy and Acc+ are. Prompts with too many orders draw one a round.

    Args:
        items: of a benchmark.
        independent: True for a judge, which tosses anew for every item; False for a scorer, which gives an answer to a
            prompt the same score in all items. Of three answers in three pairs a scorer has all pairs right once in
            six times, a judge once in eight.
        seed: of the first orders and of those that are drawn.
    """
    prompts: dict[str, list[Item]] = {}
    for item in items:
        prompts.setdefault(item.prompt_id, []).append(item)
    guesses = [_Prompt(members, independent=independent) for members in prompts.values()]
    rounds, exact = _rounds([guess.orders for guess in guesses], len(items))
    rng = random.Random(seed)
    starts = [rng.randrange(guess.orders) for guess in guesses]
    for number in range(rounds):
        scores: dict[int, tuple[float, ...]] = {}
        for guess, start in zip(guesses, starts, strict=True):
            counted = exact % guess.orders == 0
            order = (start + number) % guess.orders if counted else rng.randrange(guess.orders)
            scores |= guess.scores(order, rng)
        yield [Outcome(scores=scores[item.row]) for item in items]


class _Prompt:
    """The items of a prompt, and the sets of answers among which a guess makes one order each."""

    def __init__(self, items: Sequence[Item], *, independent: bool) -> None:
        self.items = items
        self._keys = {item.row: str(item.row) if independent else repr((item.prompt, item.images)) for item in items}
        self._answers: dict[str, dict[str, int]] = {}  # of a set: the place of each distinct answer
        for item in items:
            places = self._answers.setdefault(self._keys[item.row], {})
            for text in item.responses:
                places.setdefault(text, len(places))
        self.orders = math.prod(math.factorial(len(places)) for places in self._answers.values())

    def scores(self, order: int, rng: random.Random) -> dict[int, tuple[float, ...]]:
        """By row, the scores of one of the orders."""
        found: dict[str, list[float]] = {}
        for key, places in self._answers.items():
            count = len(places)
            order, place = divmod(order, math.factorial(count))
            values = sorted(rng.random() for _ in range(count))
            found[key] = [values[rank] for rank in _order(count, place)]
        return {
            item.row: tuple(found[key][self._answers[key][text]] for text in item.responses)
            for item in self.items
            for key in [self._keys[item.row]]
        }


def _rounds(orders: Sequence[int], items: int) -> tuple[int, int]:
    """How many rounds there are, and a number of rounds in which every prompt is exact whose orders divide it."""
    exact = 1
    for count in sorted(set(orders)):
        together = math.lcm(exact, count)
        if together * items > COUNTED:
            break
        exact = together
    if all(exact % count == 0 for count in orders):
        return exact, exact
    draws = max(1, min(MOST_DRAWS, DRAWN // items))
    return exact * max(1, draws // exact), exact


@cache
def _orders(count: int) -> list[tuple[int, ...]]:
    return list(permutations(range(count)))


def _order(count: int, place: int) -> Sequence[int]:
    """One of the orders of so many answers, by its number; of many answers without listing all orders."""
    if count <= 5:
        return _orders(count)[place]
    left = list(range(count))
    found = []
    for size in range(count, 0, -1):
        index, place = divmod(place, math.factorial(size - 1))
        found.append(left.pop(index))
    return found
