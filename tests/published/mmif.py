"""MMIF-23k in the form in which public code reads it; the names of files and folders are ours."""

from __future__ import annotations

import json
from pathlib import Path

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.writing import picture, write_files


def write(folder: Path) -> Expected:
    """Three pairs, one with two pictures, one with a picture too many for its prompt."""
    rows = [
        {
            "images": images,
            "conversations": [{"from": "human", "value": asked}],
            "chosen": {"from": "gpt", "value": "Two words."},
            "rejected": {"from": "gpt", "value": "More than two words."},
        }
        for images, asked in (
            (["images/1.jpg"], "<image>\nSay it in two words."),
            (["images/1.jpg", "images/2.jpg"], "<image><image>\nCompare them in two words."),
            (["images/1.jpg", "images/2.jpg"], "<image>\nSay it in two words."),
        )
    ]
    (folder / "MMIF_dpo.json").write_text(json.dumps(rows))
    write_files(folder, {f"images/{i}.jpg": picture(i, kind="JPEG") for i in (1, 2)})
    return Expected(
        groups=2,
        prompt=(("user", "<image>\nSay it in two words."),),
        responses=("Two words.", "More than two words."),
        preferences=(Preference(0, 1),),
        images=1,
        lost={"image_count": 1},
    )
