"""Rows as in `tulu3_wildchat`, in a part `train`."""

from __future__ import annotations

from pathlib import Path

from tests.published.expected import Expected
from tests.published.tulu3_wildchat import expected, rows
from tests.published.writing import write_parquet


def write(folder: Path) -> Expected:
    """One file."""
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", rows())
    return expected()
