"""The expected result of guessing, for a scorer with random scores and for a judge that guesses."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import permutations

from basereward.evaluation.items import Item, Outcome

# Limits of the time that a baseline takes: the number of items in all rounds together.
MAX_EXACT_ITEMS = 100_000
MAX_SAMPLED_ITEMS = 20_000
# Rounds if some prompts have too many orders for an exact count.
MAX_SAMPLED_ROUNDS = 100
# Up to 5! = 120 orders are listed once and kept.
MAX_LISTED_RESPONSES = 5


def chance_rounds(items: Sequence[Item], *, independent: bool, seed: int = 0) -> Iterator[list[Outcome]]:
    """Generate rounds of guessed outcomes. The mean of a measure over all rounds is the expected value of guessing.

    A prompt whose responses have n orders takes each order equally often in n rounds. So the mean is exact for every
    measure that is a sum over prompts, such as accuracy and Acc+. Prompts with too many orders draw a random order in
    every round.

    Args:
        items: of a benchmark.
        independent: True for a judge, which guesses for every item independently; False for a scorer, which gives a
            response to a prompt the same score in all items. With three responses in three pairs, a scorer has all
            pairs right with a probability of 1/6, a judge with one of 1/8.
        seed: of the first orders and of the random orders.

    Yields:
        One outcome with scores per item.

    >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a")
    >>> rounds = [outcomes[0].scores for outcomes in chance_rounds([item], independent=False)]
    >>> sorted(scores[0] > scores[1] for scores in rounds)
    [False, True]
    """
    items_by_prompt: dict[str, list[Item]] = {}
    for item in items:
        items_by_prompt.setdefault(item.prompt_id, []).append(item)
    prompts = [_PromptGuess(members, independent=independent) for members in items_by_prompt.values()]
    rounds, exact = _rounds([prompt.orders for prompt in prompts], len(items))
    rng = random.Random(seed)
    # If all prompts began with the same order, the rounds of a measure that is no sum over prompts would be extreme.
    starts = [rng.randrange(prompt.orders) for prompt in prompts]
    for number in range(rounds):
        scores: dict[int, tuple[float, ...]] = {}
        for prompt, start in zip(prompts, starts, strict=True):
            enumerated = exact % prompt.orders == 0
            order = (start + number) % prompt.orders if enumerated else rng.randrange(prompt.orders)
            scores |= prompt.scores(order, rng)
        yield [Outcome(scores=scores[item.row]) for item in items]


class _PromptGuess:
    """Guesses for the items of one prompt.

    Responses that are scored together form a set: those of one item for a judge, those of all items with the same
    images for a scorer. An order of the prompt is one order of each set.
    """

    def __init__(self, items: Sequence[Item], *, independent: bool) -> None:
        self.items = items
        self._set_of_row = {
            item.row: str(item.row) if independent else repr((item.prompt, item.images)) for item in items
        }
        # Set -> distinct response -> its position in the set.
        self._positions: dict[str, dict[str, int]] = {}
        for item in items:
            positions = self._positions.setdefault(self._set_of_row[item.row], {})
            for text in _distinct(item):
                positions.setdefault(text, len(positions))
        self.orders = math.prod(math.factorial(len(positions)) for positions in self._positions.values())

    def scores(self, order: int, rng: random.Random) -> dict[int, tuple[float, ...]]:
        """The scores of all items under one order.

        Args:
            order: its number, below `orders`.
            rng: draws the values; the order decides who gets which.

        Returns:
            The scores by row.
        """
        scores_by_set: dict[str, list[float]] = {}
        for key, positions in self._positions.items():
            count = len(positions)
            # The number of the order has one digit per set, in a mixed radix.
            order, number = divmod(order, math.factorial(count))
            values = sorted(rng.random() for _ in range(count))
            scores_by_set[key] = [values[rank] for rank in _order(count, number)]
        scores: dict[int, tuple[float, ...]] = {}
        for item in self.items:
            key = self._set_of_row[item.row]
            scores[item.row] = tuple(scores_by_set[key][self._positions[key][text]] for text in _distinct(item))
        return scores


def _distinct(item: Item) -> Sequence[str]:
    """What tells the responses of an item apart: their texts and images; their places, if they have neither."""
    if item.response_images:
        return [repr(response) for response in zip(item.responses, item.response_images, strict=True)]
    return item.responses if any(item.responses) else [str(place) for place in range(len(item.responses))]


def _rounds(orders: Sequence[int], items: int) -> tuple[int, int]:
    """The number of rounds, and the number of rounds after which every prompt is exact whose orders divide it.

    Args:
        orders: the number of orders of each prompt.
        items: the number of items of a round.
    """
    exact = 1
    for count in sorted(set(orders)):
        multiple = math.lcm(exact, count)
        if multiple * items > MAX_EXACT_ITEMS:
            break
        exact = multiple
    if all(exact % count == 0 for count in orders):
        return exact, exact
    draws = max(1, min(MAX_SAMPLED_ROUNDS, MAX_SAMPLED_ITEMS // items))
    # A whole multiple, so that the prompts that can be exact stay exact.
    return exact * max(1, draws // exact), exact


@cache
def _all_orders(count: int) -> list[tuple[int, ...]]:
    return list(permutations(range(count)))


def _order(count: int, number: int) -> Sequence[int]:
    """The permutation of `count` elements with the given number, in lexicographic order."""
    if count <= MAX_LISTED_RESPONSES:
        return _all_orders(count)[number]
    # The factorial number system gives the permutation without listing the others.
    remaining = list(range(count))
    order = []
    for size in range(count, 0, -1):
        index, number = divmod(number, math.factorial(size - 1))
        order.append(remaining.pop(index))
    return order
