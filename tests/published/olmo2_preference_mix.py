"""OLMo-2's preference mix: as Tulu's sets, with ratings, models and sources beside the message lists."""

from __future__ import annotations

from pathlib import Path

from tests.published.expected import Expected
from tests.published.tulu3_wildchat import expected, rows
from tests.published.writing import write_parquet


def write(folder: Path) -> Expected:
    """Two files. Ratings, which are not read, contradict the order; one row has no `prompt`, like all of some mixes."""
    beside = {
        "chosen_rating": 1.0,
        "rejected_rating": 5.0,
        "chosen_model": "a",
        "rejected_model": "b",
        "source": "ours",
    }
    mixed = [row | beside for row in rows()]
    mixed[1]["prompt"] = None
    write_parquet(folder / "data" / "train-00000-of-00002.parquet", mixed[:3])
    write_parquet(folder / "data" / "train-00001-of-00002.parquet", mixed[3:])
    return expected()
