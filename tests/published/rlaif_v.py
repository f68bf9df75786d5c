"""RLAIF-V as published: Parquet with the pictures in the rows."""

from __future__ import annotations

import json
from pathlib import Path

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.writing import embedded, write_parquet

SPLIT = json.dumps({"model": "a 7B", "type": "detailed_captions", "feedback": "a 34B"})


def write(folder: Path) -> Expected:
    """Two files; one question about two pictures, one picture with two questions, and an answer equal to its rival."""
    rows = [
        (7, "What is shown?", "A red field.", "A dog in a red field."),
        (8, "What is shown?", "A darker field.", "A cat."),
        (8, "How many dogs are there?", "None.", "Two."),
        (9, "What is shown?", "The same.", "The same."),
    ]
    full = [
        {
            "ds_name": "RLAIF-V",
            "image": embedded(shade),
            "question": question,
            "chosen": chosen,
            "rejected": rejected,
            "origin_dataset": "ours",
            "origin_split": SPLIT,
            "idx": str(i),
            "image_path": f"images/{shade}.jpg",
        }
        for i, (shade, question, chosen, rejected) in enumerate(rows)
    ]
    write_parquet(folder / "RLAIF-V-Dataset_000.parquet", full[:2], images=["image"])
    write_parquet(folder / "RLAIF-V-Dataset_001.parquet", full[2:], images=["image"])
    return Expected(
        groups=3,
        prompt=(("user", "<image>What is shown?"),),
        responses=("A red field.", "A dog in a red field."),
        preferences=(Preference(0, 1),),
        images=1,
        lost={"identical_responses": 1},
    )
