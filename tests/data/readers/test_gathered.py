"""Rows with the same key become one row, wherever they are in the table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from basereward.data.readers.gathered import Gathered
from basereward.data.readers.json_lines import JsonLines
from tests.helpers.support import write_rows


def by_question(row: Mapping[str, Any]) -> str | None:
    """Return the key of a row, by the column's name in the adapter, not in the file."""
    value = row.get("question")
    return value if isinstance(value, str) else None


@pytest.fixture
def table(tmp_path: Path) -> Gathered:
    """Return a table of five lines: the first and the fourth have the same question, and one is not JSON."""
    rows = [{"q": "a", "n": 1}, {"q": "b", "n": 2}, "{broken", {"q": "a", "n": 4}, {"n": 5}]
    return Gathered(JsonLines(write_rows(tmp_path / "rows.jsonl", rows)), key=by_question, columns={"question": "q"})


def test_equal_keys_are_joined_in_order(table: Gathered) -> None:
    """A joined row has the cells of its first row; rows without a key and broken lines stay alone."""
    scanned = list(table.scan())
    assert [table.where(number).rpartition(":")[2] for _, number, _ in scanned] == ["1", "2", "3", "5"]
    rows = [table.decode(raw) for _, _, raw in scanned if raw != [b"{broken\n"]]
    assert [[part["n"] for part in row["rows"]] for row in rows] == [[1, 4], [2], [5]]  # type: ignore[index]
    assert rows[0]["n"] == 1  # type: ignore[index]


def test_read_returns_the_row_of_a_place(table: Gathered) -> None:
    """`read` returns what `scan` yielded for the same place."""
    for place, _, raw in table.scan():
        assert table.read(place) == raw
