"""Skywork-Reward-Preference-80K: message lists that begin with the prompt, and a source."""

from __future__ import annotations

from pathlib import Path

from tests.published.expected import Expected
from tests.published.tulu3_wildchat import expected, rows
from tests.published.writing import write_parquet


def write(folder: Path) -> Expected:
    """One file, without `prompt`."""
    read = [{"chosen": row["chosen"], "rejected": row["rejected"], "source": "ours"} for row in rows()]
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", read)
    return expected()
