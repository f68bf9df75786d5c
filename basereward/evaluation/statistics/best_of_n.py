"""Best-of-N: how often the response with the highest score among N responses of a policy is right, by N."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from basereward.errors import DataError
from basereward.inference.group_scores import ScoresGroups
from basereward.metrics.interval import Interval, resampled


class ScoredResponses(NamedTuple):
    """The responses of a policy to one prompt.

    Attributes:
        scores: of a reward model, M numbers.
        right: whether each response is right.

    >>> ScoredResponses([0.5, 2.0], [False, True]).right
    [False, True]
    """

    scores: Sequence[float]
    right: Sequence[bool]


class BestOfN(NamedTuple):
    """One point of the curve, as shares of prompts.

    Attributes:
        n: responses that are drawn for each prompt.
        value: the response with the highest score is right.
        interval: of `value`, 95 %, over prompts.
        gain: `value` minus its value at one response.
        gain_interval: of `gain`, paired by prompt.
        any_right: at least one of the n responses is right: what a perfect reward model would reach.

    >>> BestOfN(1, 0.5, (0.4, 0.6), 0.0, (0.0, 0.0), 0.5).n
    1
    """

    n: int
    value: float
    interval: Interval
    gain: float
    gain_interval: Interval
    any_right: float

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        (low, high), (gain_low, gain_high) = self.interval, self.gain_interval
        bounds = {"low": low, "high": high, "gain_low": gain_low, "gain_high": gain_high}
        return {"n": self.n, "value": self.value, "gain": self.gain, "any_right": self.any_right, **bounds}


def best_of_n(prompts: Sequence[ScoredResponses], sizes: Iterable[int] | None = None) -> list[BestOfN]:
    """The curve of best-of-N, from M >= N responses to each prompt.

    Each value is the mean over all subsets of N of the M responses, in closed form, so that no subset is drawn at
    random. Of responses with equal scores each is chosen equally often.

    Args:
        prompts: with equally many responses each.
        sizes: the values of N; None: 1, 2, 4, ... up to M, and M.

    Raises:
        DataError: there are no prompts, the numbers of responses differ, a score is NaN, or a size is not from 1 to M.

    >>> prompts = [ScoredResponses([1.0, 2.0, 3.0, 0.0], [False, True, True, False])] * 2
    >>> [(point.n, round(point.value, 3), round(point.any_right, 3)) for point in best_of_n(prompts)]
    [(1, 0.5, 0.5), (2, 0.833, 0.833), (4, 1.0, 1.0)]
    """
    number = _responses(prompts)
    chosen = sorted(set(powers(number) if sizes is None else sizes))
    if not chosen or not 1 <= chosen[0] <= chosen[-1] <= number:
        raise DataError(f"best-of-N for N = {chosen}: allowed are 1 to {number}, the number of responses of a prompt")
    first = np.array([chosen_right(prompt, 1) for prompt in prompts])
    points: list[BestOfN] = []
    for n in chosen:
        values = np.array([chosen_right(prompt, n) for prompt in prompts])
        reachable = [any_right(sum(prompt.right), number, n) for prompt in prompts]
        gain = values - first
        points.append(
            BestOfN(n, float(values.mean()), _bounds(values), float(gain.mean()), _bounds(gain), _mean(reachable))
        )
    return points


def score_best_of_n(
    model: ScoresGroups, rows: Sequence[dict[str, Any]], sizes: Iterable[int] | None = None
) -> list[BestOfN]:
    """The curve of best-of-N of a model that scores rows.

    Args:
        model: as `basereward.load` gives it.
        rows: `prompt`, `responses`, `images` if the prompt has some, and `right`, one truth value for each response.
        sizes: as for `best_of_n`.

    Raises:
        DataError: a row has no `right`, or another number of values than responses; or as `score_rows` and `best_of_n`.

    >>> class Longest(ScoresGroups):
    ...     def score_batches(self, groups, *, tokens=None, latencies=None):
    ...         for group in groups:
    ...             yield [[float(len(response)) for response in group.responses]]
    >>> row = {"prompt": "2 + 2?", "responses": ["4", "five"], "right": [True, False]}
    >>> [point.value for point in score_best_of_n(Longest(), [row, row])]
    [0.5, 0.0]
    """
    right = [_truths(row, place) for place, row in enumerate(rows)]
    asked: list[dict[str, Any]] = []
    for row in rows:
        asked.append({name: value for name, value in row.items() if name != "right"})
    prompts = zip(model.score_rows(asked), right, strict=True)
    return best_of_n([ScoredResponses(scores, truths) for scores, truths in prompts], sizes)


def _truths(row: Mapping[str, Any], place: int) -> list[bool]:
    """Whether each response of a row is right.

    Raises:
        DataError: there is no truth value for each.
    """
    right, number = row.get("right"), len(row.get("responses") or ())
    if not isinstance(right, list | tuple) or len(right) != number:
        raise DataError(f"row {place}: `right` is {right!r}; needed: true or false for each of the {number} responses")
    return [bool(value) for value in right]


def _responses(prompts: Sequence[ScoredResponses]) -> int:
    """The number of responses of each prompt.

    Raises:
        DataError: there are no prompts, the numbers differ, or a score is NaN.
    """
    numbers = {len(prompt.scores) for prompt in prompts} | {len(prompt.right) for prompt in prompts}
    if len(numbers) != 1 or 0 in numbers:
        raise DataError(
            f"the prompts have {sorted(numbers) or 'no'} responses; best-of-N needs prompts with equally many scores "
            "and truth values, at least one"
        )
    if any(math.isnan(score) for prompt in prompts for score in prompt.scores):
        raise DataError("a score is NaN, so that no response is the best; score the rows again")
    return numbers.pop()


def powers(number: int) -> list[int]:
    """1, 2, 4, ... up to a number, and the number.

    >>> powers(8), powers(6)
    ([1, 2, 4, 8], [1, 2, 4, 6])
    """
    powers = [2**exponent for exponent in range(number.bit_length()) if 2**exponent <= number]
    return powers if powers[-1] == number else [*powers, number]


def chosen_right(prompt: ScoredResponses, n: int) -> float:
    """The share of all subsets of `n` responses whose response with the highest score is right.

    >>> chosen_right(ScoredResponses([1.0, 1.0], [True, False]), 2)  # a tie is a draw
    0.5
    """
    number = len(prompt.scores)
    total = math.comb(number, n)
    share, below = 0.0, 0
    # From the lowest score up: a subset has this best score if one of its responses has it and none has a higher one.
    for score in sorted(set(prompt.scores)):
        own = [right for value, right in zip(prompt.scores, prompt.right, strict=True) if value == score]
        up_to = below + len(own)
        share += (math.comb(up_to, n) - math.comb(below, n)) / total * sum(own) / len(own)
        below = up_to
    return share


def any_right(right: int, number: int, n: int) -> float:
    """The share of all subsets of `n` of `number` responses that hold one of the `right` ones.

    >>> any_right(1, 4, 2)
    0.5
    """
    return 1 - math.comb(number - right, n) / math.comb(number, n)


def _bounds(values: NDArray[np.float64]) -> Interval:
    return resampled(np.stack([values, np.ones_like(values)], -1)[:, None], np.ones(1))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
