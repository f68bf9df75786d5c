"""RLHF-V as published: Parquet with the pictures in the rows; question and answers are JSON in one text."""

from __future__ import annotations

import json
from pathlib import Path

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.writing import embedded, write_parquet


def write(folder: Path) -> Expected:
    """Two pairs; a text that breaks off, and one without the chosen answer."""
    texts = [
        json.dumps({"question": "Where is it?", "chosen": 'On a "table".', "rejected": "On a tree."}),
        json.dumps({"question": "What is it?", "chosen": "A cup.", "rejected": "A cup and a plate."}),
        '{"question": "What is',
        json.dumps({"question": "Why?", "rejected": "So."}),
    ]
    rows = [
        {
            "ds_name": "RLHF-V",
            "image": embedded(i),
            "text": text,
            "origin_dataset": "ours",
            "origin_split": json.dumps({"model": "ours", "type": "question_answer"}),
            "idx": i,
            "image_path": f"images/{i}.jpg",
        }
        for i, text in enumerate(texts)
    ]
    write_parquet(folder / "RLHF-V-Dataset.parquet", rows, images=["image"])
    return Expected(
        groups=2,
        prompt=(("user", "<image>Where is it?"),),
        responses=('On a "table".', "On a tree."),
        preferences=(Preference(0, 1),),
        images=1,
        lost={"malformed_json": 1, "missing_column": 1},
    )
