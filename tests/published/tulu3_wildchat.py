"""Tulu 3's preference sets as published: Parquet, message lists with the prompt in them and beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.writing import write_parquet

GROUPS = 2
LOST = {"identical_responses": 1, "prompts_differ": 1, "empty_response": 1}


def turns(*texts: str) -> list[dict[str, str]]:
    """Messages of user and assistant in turn."""
    roles = ("user", "assistant")
    return [{"content": text, "role": roles[i % 2]} for i, text in enumerate(texts)]


def rows() -> list[dict[str, Any]]:
    """Two that can be used, the second of several turns of which `prompt` repeats the first, and three that cannot."""
    talk = ("Who wrote it?", "Storm.", "And when?")
    pairs: list[tuple[str, Any, Any]] = [
        ("Write one line.", turns("Write one line.", "One."), turns("Write one line.", "One.\nTwo.")),
        ("Who wrote it?", turns(*talk, "In 1888."), turns(*talk, "I forgot.")),
        ("Say so.", turns("Say so.", "So."), turns("Say so.", "So.")),
        ("Count.", turns("Count.", "1"), turns("Count!", "2")),
        ("Sing.", turns("Sing.", "La."), turns("Sing.", " ")),
    ]
    return [
        {"id": f"ours_{i}", "prompt": prompt, "chosen": chosen, "rejected": rejected}
        for i, (prompt, chosen, rejected) in enumerate(pairs)
    ]


def expected() -> Expected:
    """What is in those rows."""
    return Expected(
        groups=GROUPS,
        prompt=(("user", "Write one line."),),
        responses=("One.", "One.\nTwo."),
        preferences=(Preference(0, 1),),
        lost=LOST,
    )


def write(folder: Path) -> Expected:
    """The set has parts by kind and no `train`; those that are not asked for hold other rows."""
    write_parquet(folder / "data" / "wildchat_reused_on_policy_70b-00000-of-00001.parquet", rows())
    write_parquet(folder / "data" / "wildchat_unused-00000-of-00001.parquet", rows()[:1])
    return expected()
