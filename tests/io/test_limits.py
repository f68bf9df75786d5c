"""Bounded reads: files that are too large, endless or malformed are errors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from basereward.errors import DataError, ModelError
from basereward.io.limits import check_regular_file, parse_json, read_bytes, read_json_object, read_text


def test_limit_is_the_largest_size_that_is_read(tmp_path: Path) -> None:
    """A file of 10 bytes is read with a limit of 10, and is an error with a limit of 9."""
    (tmp_path / "file").write_bytes(b"x" * 10)
    assert read_bytes(tmp_path / "file", limit=10) == b"x" * 10
    with pytest.raises(DataError, match="10 bytes; at most 9"):
        read_bytes(tmp_path / "file", limit=9)


def test_endless_files_are_not_opened(tmp_path: Path) -> None:
    """Opening a FIFO without a writer would block the test."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(ModelError):
            check_regular_file(path, error=ModelError)
        with pytest.raises(ModelError):
            read_text(path, error=ModelError)


@pytest.mark.parametrize("text", ["[]", "null", "3", '"a"', "{", "[" * 100_000, '{"a":' * 150 + "1" + "}" * 150])
def test_other_json_and_deep_nesting_are_errors(text: str, tmp_path: Path) -> None:
    """Other values, truncated text and deep nesting raise `DataError`, not `RecursionError`."""
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(DataError):
        read_json_object(tmp_path / "file.json")


def test_json_depth_is_limited() -> None:
    """100 levels are read, 101 are an error."""
    assert parse_json("[" * 100 + "]" * 100, where="x")
    with pytest.raises(DataError):
        parse_json("[" * 101 + "1" + "]" * 101, where="x")
