"""Pairs in the ShareGPT format: the turns of a prompt, and one turn each for the better and the worse answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basereward.data.adapters.turns import read_turn, read_turns

OPTIONAL_COLUMNS = ("id", "images", "image", "system")


class ShareGPTPairs:
    """Reads the prompt `conversations`, a list of `{"from", "value"}`, and the turns `chosen` and `rejected`.

    Optional columns: `images` or `image` contain paths of images, `system` the system prompt.

    >>> row = {"conversations": [{"from": "human", "value": "Q"}], "chosen": {"from": "gpt", "value": "yes"}}
    >>> pair = ShareGPTPairs()(row | {"rejected": {"from": "gpt", "value": "no"}, "images": ["1.png"]})
    >>> pair["chosen"], pair["images"]
    ([{'from': 'gpt', 'value': 'yes'}], ['1.png'])
    """

    columns = ("conversations", "chosen", "rejected")

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a row to our pair form.

        Raises:
            RowRejected: `wrong_type`, `bad_message`, `unknown_role`, `unknown_key`.
        """
        # The row format reads these turns itself. They are read here first to reject images inside of turns.
        read_turns(row["conversations"], column="conversations")
        for name in ("chosen", "rejected"):
            read_turn(row[name], where=f"`{name}`")
        pair = {"prompt": row["conversations"], "chosen": [row["chosen"]], "rejected": [row["rejected"]]}
        return pair | {name: row[name] for name in OPTIONAL_COLUMNS if row.get(name) is not None}
