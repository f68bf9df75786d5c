"""Pairs in the manner of ShareGPT: turns, and one turn each for the better and the worse answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basereward.data.shapes._from_value import read_turn, read_turns


class ShareGPTPairs:
    """`conversations` is the prompt, a list of `{"from", "value"}`; `chosen` and `rejected` are one such turn each.
    Pictures, where there are some, are paths in `images` or `image`."""

    columns = ("conversations", "chosen", "rejected")

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            RowLost: `wrong_type`, `bad_message`, `unknown_role`.
        """
        answers = {name: read_turn(row[name], where=f"`{name}`")["content"] for name in ("chosen", "rejected")}
        pictures = {name: row[name] for name in ("id", "images", "image") if row.get(name) is not None}
        return {"prompt": read_turns(row["conversations"], column="conversations")} | answers | pictures
