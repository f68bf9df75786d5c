"""Every rejected row has a reason and is listed, and too many of them stop the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from basereward.data.schema.group import RejectedRow
from basereward.data.schema.rejections import RowRejected, append_rejections, check_limit, summary, write_rejections
from basereward.errors import TooManyRowsLost


def _rows(num_rows: int, source: str = "a", reason: str = "too_long") -> list[RejectedRow]:
    """Return rejected rows of one source and reason."""
    return [RejectedRow(source, "train", str(i), reason, f"{i + 5000} tokens") for i in range(num_rows)]


def test_max_lost_is_a_share_of_all_rows() -> None:
    """With a limit of 1 %, one row of a hundred is allowed and two are not."""
    check_limit(_rows(1), rows={"a": 60, "b": 40}, max_lost=0.01, listed_in="lost.jsonl")
    with pytest.raises(TooManyRowsLost) as caught:
        check_limit(
            _rows(1) + _rows(1, "b", "image_missing"), rows={"a": 60, "b": 40}, max_lost=0.01, listed_in="lost.jsonl"
        )
    message = str(caught.value)
    assert "2 of 100 rows (2.00%) cannot be used; data.max_lost allows 1.00%" in message
    assert "lost.jsonl" in message
    assert message.splitlines()[1:] == [
        "  a: 1 of 60 (too_long 1)",
        "    too_long: 0: 5000 tokens",
        "  b: 1 of 40 (image_missing 1)",
        "    image_missing: 0: 5000 tokens",
    ]


def test_message_lists_rows_and_reasons() -> None:
    """At most three rows per reason, by file and line or by id, and only the beginning of long details."""
    rejected = [
        RejectedRow("a", "train", "pairs.jsonl:3", "missing_column", "pairs.jsonl:3: missing: 'rejected'"),
        RejectedRow("a", "val", "row-7", "image_missing", "there is no file 7.png"),
        *(RejectedRow("a", "train", str(i), "bad_id", f"{'x' * 10_000}\n") for i in range(1000)),
        *(RejectedRow("b", "train", str(i), f"reason_{i}", "detail") for i in range(1000)),
    ]
    with pytest.raises(TooManyRowsLost) as caught:
        check_limit(rejected, rows={"a": 5000, "b": 5000}, max_lost=0.01, listed_in="lost.jsonl")
    message = str(caught.value)
    assert "\n    missing_column: pairs.jsonl:3: missing: 'rejected'\n" in message
    assert "\n    image_missing: row-7: there is no file 7.png\n" in message
    assert message.count("x... (") == 3
    assert message.count(": detail") == 17
    assert "reason_999 1" in message
    assert len(message) < 25_000


def test_long_detail_is_shortened() -> None:
    """A detail with a path of a megabyte is shortened, and contains its length."""
    rejection = RowRejected("image_missing", "x" * 1_000_000)
    assert len(rejection.detail) < 1050
    assert rejection.detail.endswith("... (1000000 letters)")


def test_source_with_only_rejected_rows_stops_the_run() -> None:
    """Even if its rows are less than 1 % of all rows."""
    with pytest.raises(TooManyRowsLost, match="every row of small is rejected"):
        check_limit(_rows(5, "small"), rows={"large": 10_000, "small": 5}, max_lost=0.01, listed_in="lost.jsonl")


def test_no_rejected_rows_are_within_any_limit() -> None:
    """Also if there are no rows at all."""
    check_limit([], rows={"a": 3, "b": 0}, max_lost=0.0, listed_in="lost.jsonl")


def test_rejected_rows_are_written_one_per_line(tmp_path: Path) -> None:
    """With all fields, in UTF-8, and without a partial file next to the list."""
    path = tmp_path / "lost.jsonl"
    rejected = [RejectedRow("a", "test", "7", "too_long", "žluť\nline 2 \udcff")]
    write_rejections(path, rejected)
    [line] = path.read_text(encoding="utf-8").splitlines()
    assert RejectedRow(**json.loads(line)) == rejected[0]
    assert "žluť" in line
    assert list(tmp_path.iterdir()) == [path]


def test_rejected_rows_are_appended(tmp_path: Path) -> None:
    """New rows are appended in the same form; the file is created if it does not exist."""
    path = tmp_path / "lost.jsonl"
    append_rejections(path, _rows(1))
    append_rejections(path, _rows(2, "b"))
    assert [RejectedRow(**json.loads(line)) for line in path.read_text().splitlines()] == [*_rows(1), *_rows(2, "b")]


def test_summary_counts_by_source_and_reason() -> None:
    """The splits of a source are counted together."""
    assert summary([*_rows(2), *_rows(1, "a", "image_missing"), *_rows(1, "b")]) == {
        "a": {"too_long": 2, "image_missing": 1},
        "b": {"too_long": 1},
    }


def test_only_finished_sources_can_be_empty() -> None:
    """The first rows of a stream may all be rejected; the fraction of all rows is checked as usual."""
    rejected = _rows(5, "small")
    check_limit(rejected, rows={"large": 9995, "small": 5}, max_lost=0.01, listed_in="lost.jsonl", emptied={"large"})
    with pytest.raises(TooManyRowsLost, match="every row of small is rejected"):
        check_limit(
            rejected, rows={"large": 9995, "small": 5}, max_lost=0.01, listed_in="lost.jsonl", emptied={"small"}
        )
