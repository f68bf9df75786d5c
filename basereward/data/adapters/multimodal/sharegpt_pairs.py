"""Pairs in the manner of ShareGPT: turns, and one turn each for the better and the worse answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basereward.data.adapters.turns import read_turn, read_turns

BESIDE = ("id", "images", "image", "system")


class ShareGPTPairs:
    """`conversations` is the prompt, a list of `{"from", "value"}`; `chosen` and `rejected` are one such turn each.
    Pictures, where there are some, are paths in `images` or `image`; `system` is the prompt's system turn."""

    columns = ("conversations", "chosen", "rejected")

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            RowRejected: `wrong_type`, `bad_message`, `unknown_role`, `unknown_key`.
        """
        read_turns(row["conversations"], column="conversations")
        for name in ("chosen", "rejected"):
            read_turn(row[name], where=f"`{name}`")
        turns = {"prompt": row["conversations"], "chosen": [row["chosen"]], "rejected": [row["rejected"]]}
        return turns | {name: row[name] for name in BESIDE if row.get(name) is not None}
