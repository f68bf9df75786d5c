"""MMPR v1.2 as published, its annotations unpacked: `meta.json` lists files and roots below the set's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.writing import picture, write_jsonl, write_zip


def entry(name: str, *, rows: int) -> dict[str, Any]:
    """What the list says of one file."""
    return {
        "root": f"MMPR-v1.2/images/{name}",
        "annotation": f"MMPR-v1.2/annotations/{name}.jsonl",
        "data_augment": False,
        "repeat_time": 1,
        "length": rows,
    }


def write(folder: Path) -> Expected:
    """Two files; in both a picture has the name 1.png; one prompt has two pairs, and one answer is blank."""
    asked = {"image": "1.png", "question": "<image>\nHow many?", "answer_gt": "2", "image_wh": [[6, 4]]}
    files = {
        "maps": [
            {**asked, "chosen": "There are 2.", "rejected": "There are 3."},
            {**asked, "chosen": "2", "rejected": "5"},
        ],
        "charts": [
            {**asked, "chosen": "Two bars.", "rejected": "Four bars."},
            {**asked, "chosen": " ", "rejected": "Six bars."},
        ],
    }
    for name, rows in files.items():
        write_jsonl(folder / "annotations" / f"{name}.jsonl", rows)
    (folder / "meta.json").write_text(json.dumps({name: entry(name, rows=2) for name in files}))
    write_zip(folder / "images.zip", {"images/maps/1.png": picture(1), "images/charts/1.png": picture(2)})
    return Expected(
        groups=3,
        prompt=(("user", "<image>\nHow many?"),),
        responses=("There are 2.", "There are 3."),
        preferences=(Preference(0, 1),),
        images=1,
        lost={"empty_response": 1},
    )
