"""HelpSteer3 as published: packed JSON Lines in a folder a configuration, which the card's head names."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from basereward.data.schema.group import Preference
from tests.published.expected import Expected

CARD = """\
---
configs:
- config_name: preference
  default: true
  data_files:
  - split: train
    path: preference/train.jsonl.gz
  - split: validation
    path: preference/validation.jsonl.gz
- config_name: edit
  data_files:
  - split: train
    path: edit/train.jsonl.gz
---
"""


def row(
    question: str, first: str, second: str, preference: int | None, *, before: Sequence[str] = ()
) -> dict[str, Any]:
    """A pair; `before` are the turns before the question, the user's first."""
    roles = ("user", "assistant")
    return {
        "domain": "general",
        "language": "english",
        "context": [{"role": roles[i % 2], "content": text} for i, text in enumerate((*before, question))],
        "response1": first,
        "response2": second,
        "overall_preference": preference,
        "individual_preference": [{"score": 3, "reasoning": "Better.", "feedback1": "Good.", "feedback2": "Bad."}],
    }


def pack(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """JSON Lines, packed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write(folder: Path) -> Expected:
    """One pair a direction, one undecided, one without a verdict, and one in the validation part."""
    folder.joinpath("README.md").write_text(CARD)
    pack(
        folder / "preference" / "train.jsonl.gz",
        [
            row("And now?", "Half past.", "Late.", -2, before=("What time is it?", "Noon.")),
            row("Which is larger, 3 or 5?", "3", "5", 3),
            row("Tea or coffee?", "Tea.", "Coffee.", 0),
            row("Left or right?", "Left.", "Right.", None),
        ],
    )
    pack(folder / "preference" / "validation.jsonl.gz", [row("Up or down?", "Up.", "Neither.", 1)])
    pack(folder / "edit" / "train.jsonl.gz", [{"other": "columns"}])
    return Expected(
        groups=3,
        prompt=(("user", "What time is it?"), ("assistant", "Noon."), ("user", "And now?")),
        responses=("Half past.", "Late."),
        preferences=(Preference(0, 1),),
        lost={"undecided": 1, "not_rated": 1},
    )
