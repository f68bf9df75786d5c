"""Pairs of whole conversations, as the preference mixes of Tulu and OLMo are published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Conversations:
    """`chosen` and `rejected` are message lists; what stands before their last messages is the prompt.

    A column `prompt` beside them, which some of these sets have and some do not, repeats one turn of it: it is read
    only where the lists hold nothing but the answers. Ratings and names of models are left alone.
    """

    columns: tuple[str, ...] = ("chosen", "rejected")

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        read = {name: row.get(name) for name in ("id", "system", *self.columns)}
        chosen, prompt = row["chosen"], row.get("prompt")
        if isinstance(chosen, list) and len(chosen) > 1:
            return read
        return read | {"prompt": prompt}
