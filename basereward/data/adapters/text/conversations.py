"""Pairs of complete conversations, the format of the Tulu and OLMo preference mixes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Conversations:
    """Reads the message lists `chosen` and `rejected`; the messages before the last ones are the prompt.

    Some of these data sets also have a column `prompt` that repeats one turn. It is read only if the lists contain
    nothing but the answers. Ratings and model names are not read.

    >>> chosen, rejected = ([{"role": "assistant", "content": text}] for text in ("yes", "no"))
    >>> Conversations()({"prompt": "Q", "chosen": chosen, "rejected": rejected})["prompt"]
    'Q'
    """

    columns: tuple[str, ...] = ("chosen", "rejected")

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Select the columns of our pair form."""
        pair = {name: row.get(name) for name in ("id", "system", *self.columns)}
        # The column is accessed in both cases, so that it is not reported as unread.
        prompt = row.get("prompt")
        chosen = row["chosen"]
        if isinstance(chosen, list) and len(chosen) > 1:
            return pair
        return pair | {"prompt": prompt}
