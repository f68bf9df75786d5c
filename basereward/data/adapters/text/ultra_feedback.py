"""UltraFeedback: an instruction, up to four completions, and a score for each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected


class UltraFeedback:
    """Completions compared by their scores; equal scores say nothing.

    Args:
        pairs: `all` makes one group with every pair of unequal scores; `largest_gap` makes one pair, the best
            completion against the worst, of equals the first.
        score: the key of a completion that holds its score. A completion without a number there is left out.
    """

    columns: tuple[str, ...] = ("instruction", "completions")

    def __init__(self, *, pairs: Literal["all", "largest_gap"] = "all", score: str = "overall_score") -> None:
        self.pairs = pairs
        self.score = score

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            RowRejected: `wrong_type`; `not_rated` (fewer than two scores); `equal_ratings` (no two differ).
        """
        scored = self._scored(row["completions"])
        if len({score for score, _ in scored}) == 1:
            raise RowRejected(
                "equal_ratings", f"each of the {len(scored)} completions has the {self.score} {scored[0][0]}"
            )
        if self.pairs == "largest_gap":
            best = max(scored, key=lambda completion: completion[0])
            worst = min(scored, key=lambda completion: completion[0])
            return {"prompt": row["instruction"], "chosen": best[1], "rejected": worst[1]}
        return {
            "prompt": row["instruction"],
            "responses": [response for _, response in scored],
            "preferences": _unequal_pairs([score for score, _ in scored]),
        }

    def _scored(self, completions: object) -> list[tuple[float, Any]]:
        """Score and response of the completions that have a score, in order; at least two."""
        if not isinstance(completions, list) or not all(isinstance(one, Mapping) for one in completions):
            raise RowRejected("wrong_type", f"`completions` is {shown(completions)}; a list of objects is needed")
        scored = [
            (float(one[self.score]), one.get("response")) for one in completions if _is_number(one.get(self.score))
        ]
        if len(scored) < 2:
            keys = ", ".join(completions[0]) if completions else "none"
            raise RowRejected(
                "not_rated",
                f"{len(scored)} of {len(completions)} completions have a number as `{self.score}`; two are needed. "
                f"Keys of a completion: {keys}",
            )
        return scored


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _unequal_pairs(scores: Sequence[float]) -> list[list[int]]:
    """[winner, loser] of every two positions whose scores differ.

    >>> _unequal_pairs([7.0, 9.0, 7.0])
    [[1, 0], [1, 2]]
    """
    return [
        [i, j] if scores[i] > scores[j] else [j, i]
        for i, j in itertools.combinations(range(len(scores)), 2)
        if scores[i] != scores[j]
    ]
