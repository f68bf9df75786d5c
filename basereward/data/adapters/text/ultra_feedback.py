"""UltraFeedback (arXiv 2310.01377): an instruction, up to four completions, and a score for each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from basereward.data.adapters.ratings import RatedPairs, unequal_pairs
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected


class UltraFeedback:
    """Compares completions by their scores; equal scores give no preference.

    Args:
        pairs: `all` makes one group with every pair of unequal scores; `largest_gap` makes one pair of the best and the
            worst completion (the first ones if several have the same score).
        score: the key of a completion's score. Completions without a number there are dropped.

    >>> completions = [{"response": "a", "overall_score": 3.0}, {"response": "b", "overall_score": 8.0}]
    >>> UltraFeedback()({"instruction": "Q", "completions": completions})
    {'prompt': 'Q', 'responses': ['a', 'b'], 'preferences': [[1, 0]]}
    """

    columns: tuple[str, ...] = ("instruction", "completions")

    def __init__(self, *, pairs: RatedPairs = "all", score: str = "overall_score") -> None:
        self.pairs = pairs
        self.score = score

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a row to our pair form or general form.

        Raises:
            RowRejected: `wrong_type`; `not_rated` (fewer than two scores); `equal_ratings` (no two differ).
        """
        scored = self._scored(row["completions"])
        # `preferences` would be empty; this message names the score.
        if len({score for score, _ in scored}) == 1:
            raise RowRejected("equal_ratings", f"all {len(scored)} completions have the {self.score} {scored[0][0]}")
        if self.pairs == "largest_gap":
            best = max(scored, key=lambda completion: completion[0])
            worst = min(scored, key=lambda completion: completion[0])
            return {"prompt": row["instruction"], "chosen": best[1], "rejected": worst[1]}
        return {
            "prompt": row["instruction"],
            "responses": [response for _, response in scored],
            "preferences": unequal_pairs([score for score, _ in scored]),
        }

    def _scored(self, completions: object) -> list[tuple[float, Any]]:
        """List (score, response) of the completions that have a score, in order; at least two."""
        if not isinstance(completions, list) or not all(isinstance(item, Mapping) for item in completions):
            raise RowRejected("wrong_type", f"`completions` is {shown(completions)}; a list of objects is needed")
        scored = []
        for completion in completions:
            score = completion.get(self.score)
            if _is_number(score):
                scored.append((float(score), completion.get("response")))
        if len(scored) < 2:
            keys = ", ".join(completions[0]) if completions else "none"
            raise RowRejected(
                "not_rated",
                f"{len(scored)} of {len(completions)} completions have a number as `{self.score}`; at least two are "
                f"needed. Keys of a completion: {keys}",
            )
        return scored


def _is_number(value: object) -> bool:
    # In Python `True` is an int, but a truth value is not a score.
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
