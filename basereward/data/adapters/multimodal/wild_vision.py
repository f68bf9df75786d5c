"""WildVision battles: two models' conversations about a picture, and a person's vote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basereward.data.adapters.judge_prompts import Ties
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected

RANKS = {
    "model_a": [0, 1],
    "model_b": [1, 0],
    "tie": [0, 0],
    "tie (bothbad)": [0, 0],
    "bothbad": [0, 0],
}


class WildVision:
    """`winner` compares the last answers of `conversation_a` and `conversation_b`.

    After the first turn each model has a history of its own; where these differ there is no prompt that both answer,
    and the row is lost under `prompts_differ`.

    Args:
        ties: `keep` them as ties, for a loss that uses them, or lose such rows, under `undecided`.
    """

    columns = ("conversation_a", "conversation_b", "winner", "image")

    def __init__(self, *, ties: Ties = "keep") -> None:
        self.ties = ties

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            RowRejected: `not_rated` (no vote, or an unknown one) or `undecided`.
        """
        ranks = RANKS.get(row["winner"]) if isinstance(row["winner"], str) else None
        if ranks is None:
            raise RowRejected("not_rated", f"`winner` is {shown(row['winner'])}; known are {', '.join(RANKS)}")
        if ranks == [0, 0] and self.ties == "lost":
            raise RowRejected("undecided", f"`winner` is {row['winner']}")
        return {
            "id": row.get("question_id"),
            "responses": [row["conversation_a"], row["conversation_b"]],
            "ranking": ranks,
            "image": row["image"],
        }
