"""WildVision battles (arXiv 2406.11069): conversations of two models about an image, and a human vote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basereward.data.adapters.judge_prompts import Ties
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected

# Vote -> ranks of models A and B; lower is better. Both spellings of a vote for neither occur.
RANKS = {
    "model_a": [0, 1],
    "model_b": [1, 0],
    "tie": [0, 0],
    "tie (bothbad)": [0, 0],
    "bothbad": [0, 0],
}


class WildVision:
    """Reads the vote `winner` on the last answers of `conversation_a` and `conversation_b`.

    After the first turn each model has a history of its own. If the histories differ, the two last answers have no
    common prompt, and the row is rejected with the reason `prompts_differ`.

    Args:
        ties: `keep` keeps ties, for losses that use them; `lost` rejects them, with the reason `undecided`.

    >>> battle = {"conversation_a": [], "conversation_b": [], "image": b"png"}
    >>> WildVision()(battle | {"winner": "model_b"})["ranking"]
    [1, 0]
    """

    columns = ("conversation_a", "conversation_b", "winner", "image")

    def __init__(self, *, ties: Ties = "keep") -> None:
        self.ties = ties

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a row to our general form.

        Raises:
            RowRejected: `not_rated` (no vote, or an unknown one) or `undecided`.
        """
        ranks = RANKS.get(row["winner"]) if isinstance(row["winner"], str) else None
        if ranks is None:
            raise RowRejected("not_rated", f"`winner` is {shown(row['winner'])}; allowed: {', '.join(RANKS)}")
        if ranks == [0, 0] and self.ties == "lost":
            raise RowRejected("undecided", f"`winner` is {row['winner']}")
        return {
            "id": row.get("question_id"),
            "responses": [row["conversation_a"], row["conversation_b"]],
            "ranking": ranks,
            "image": row["image"],
        }
