"""POVID as published: one JSON list without pictures, which are COCO's and lie in a folder beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.writing import picture, write_files


def turns(*said: str) -> list[dict[str, str]]:
    """A talk that the human begins."""
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(said)]


def write(folder: Path) -> Expected:
    """One pair of one round, one of two rounds, one whose first answers differ already."""
    rows: list[dict[str, Any]] = [
        {
            "id": "000000000001",
            "image": "000000000001.jpg",
            "conversations": turns("<image>\nWhat is in it?", "A bench."),
            "rejected_conversations": turns("<image>\nWhat is in it?", "A bench and a dog."),
        },
        {
            "id": "000000000002",
            "image": "000000000002.jpg",
            "conversations": turns("How many?\n<image>", "Two.", "Of what?", "Of birds."),
            "rejected_conversations": turns("How many?\n<image>", "Two.", "Of what?", "Of cats."),
        },
        {
            "id": "000000000003",
            "image": "000000000002.jpg",
            "conversations": turns("How many?\n<image>", "Two.", "Of what?", "Of birds."),
            "rejected_conversations": turns("How many?\n<image>", "Three.", "Of what?", "Of cats."),
        },
    ]
    (folder / "POVID_preference_data_for_VLLMs_version_1.json").write_text(json.dumps(rows))
    write_files(folder / "train2014", {f"{i:012}.jpg": picture(i, kind="JPEG") for i in (1, 2)})
    return Expected(
        groups=2,
        prompt=(("user", "<image>\nWhat is in it?"),),
        responses=("A bench.", "A bench and a dog."),
        preferences=(Preference(0, 1),),
        images=1,
        lost={"prompts_differ": 1},
    )
