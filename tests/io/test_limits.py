"""Reads of files from outside end in an error when the file is too large, endless, or not what it should be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from basereward.errors import DataError, ModelError
from basereward.io.limits import check_regular_file, parse_json, read_bytes, read_json_object, read_text


def test_a_file_of_the_limit_is_read_and_one_byte_more_is_refused(tmp_path: Path) -> None:
    """The limit is the largest size that is read."""
    (tmp_path / "file").write_bytes(b"x" * 10)
    assert read_bytes(tmp_path / "file", limit=10) == b"x" * 10
    with pytest.raises(DataError, match="10 bytes; at most 9"):
        read_bytes(tmp_path / "file", limit=9)


def test_files_that_may_never_end_are_refused_unread(tmp_path: Path) -> None:
    """Opening a FIFO without a writer blocks, so the test would hang if it were opened."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(ModelError):
            check_regular_file(path, error=ModelError)
        with pytest.raises(ModelError):
            read_text(path, error=ModelError)


@pytest.mark.parametrize("text", ["[]", "null", "3", '"a"', "{", "[" * 100_000, '{"a":' * 150 + "1" + "}" * 150])
def test_only_a_json_object_of_bounded_depth_is_an_object(text: str, tmp_path: Path) -> None:
    """Other values, cut text and deep nesting are errors and no RecursionError."""
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(DataError):
        read_json_object(tmp_path / "file.json")


def test_depth_is_counted_in_levels() -> None:
    """100 levels are read, 101 are not."""
    assert parse_json("[" * 100 + "]" * 100, where="x")
    with pytest.raises(DataError):
        parse_json("[" * 101 + "1" + "]" * 101, where="x")
