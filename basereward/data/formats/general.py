"""The general form: any number of responses with a ranking, preferences or ratings."""

from __future__ import annotations

from basereward.data.formats import Format

GENERAL = Format(
    "general",
    "general form",
    ("responses",),
    note="with `prompt`, and `ranking`, `preferences` or `ratings`",
    example={"prompt": "2 + 2?", "responses": ["4", "5", "22"], "ranking": [0, 1, 2]},
)
