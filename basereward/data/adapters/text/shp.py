"""Stanford Human Preferences (stanfordnlp/SHP): a post and two comments, one with more votes than the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected


class SHP:
    """Reads `labels`: 1 if comment A has the higher score, 0 if comment B has.

    Args:
        min_score_ratio: the smallest ratio of the higher to the lower score; rows below it are rejected. null: all rows
            are kept.

    >>> row = {"history": "Q", "human_ref_A": "a", "human_ref_B": "b", "labels": 0, "score_ratio": 2.5}
    >>> SHP(min_score_ratio=2.0)(row)
    {'prompt': 'Q', 'chosen': 'b', 'rejected': 'a'}
    """

    columns: tuple[str, ...] = ("history", "human_ref_A", "human_ref_B", "labels", "score_ratio")

    def __init__(self, *, min_score_ratio: float | None = None) -> None:
        self.min_score_ratio = min_score_ratio

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a row to our pair form.

        Raises:
            RowRejected: `not_rated` (no label, or no ratio to compare); `low_score_ratio`.
        """
        label = row["labels"]
        if type(label) is not int or label not in (0, 1):
            raise RowRejected("not_rated", f"`labels` is {shown(label)}; 1 (A is preferred) or 0 (B is) is needed")
        if self.min_score_ratio is not None:
            self._check_ratio(row["score_ratio"], at_least=self.min_score_ratio)
        # Indexed by the label of the winner.
        answers = [row["human_ref_B"], row["human_ref_A"]]
        return {"prompt": row["history"], "chosen": answers[label], "rejected": answers[1 - label]}

    def _check_ratio(self, ratio: object, *, at_least: float) -> None:
        if isinstance(ratio, bool) or not isinstance(ratio, int | float):
            raise RowRejected("not_rated", f"`score_ratio` is {shown(ratio)}; a number is needed")
        # Not `ratio < at_least`, which is false for NaN.
        if not ratio >= at_least:
            raise RowRejected("low_score_ratio", f"`score_ratio` is {ratio}; min_score_ratio requires {at_least}")
