"""POVID (arXiv 2402.11411): two conversations about an image, the second with inserted hallucinations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basereward.data.adapters.turns import read_turns


class POVID:
    """Prefers `conversations` to `rejected_conversations`; both are lists of turns.

    >>> good, bad = ([{"from": "human", "value": "Q"}, {"from": "gpt", "value": answer}] for answer in ("yes", "no"))
    >>> pair = POVID()({"image": "1.png", "conversations": good, "rejected_conversations": bad})
    >>> pair["chosen"][-1], pair["rejected"][-1]
    ({'role': 'assistant', 'content': 'yes'}, {'role': 'assistant', 'content': 'no'})
    """

    columns = ("image", "conversations", "rejected_conversations")

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a row to our pair form.

        Raises:
            RowRejected: `wrong_type`, `bad_message`, `unknown_role`, `unknown_key`.
        """
        return {
            "id": row.get("id"),
            "system": row.get("system"),
            "chosen": read_turns(row["conversations"], column="conversations"),
            "rejected": read_turns(row["rejected_conversations"], column="rejected_conversations"),
            "image": row["image"],
        }
