"""Every kind of bad row, among good rows and read as in training, is rejected alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from basereward.data.encoding.encoder import Encoder
from basereward.errors import TooManyRowsLost
from tests.helpers.bad_rows import (
    GOOD_IDS,
    PICTURES,
    REASONS,
    ROWS,
    as_line,
    bad_row,
    local,
    read_data,
    used_groups,
    write_lines,
)


@pytest.mark.parametrize("name", REASONS)
def test_bad_row_is_rejected_alone(name: str, small_encoder: Encoder, good: list[bytes], tmp_path: Path) -> None:
    """All good rows are used; the bad row is listed with the reason, and with its file and line or its id."""
    path = write_lines(tmp_path, [*good[:2], as_line(bad_row(name, tmp_path)), *good[2:]])
    data = read_data(local(path), small_encoder)
    [rejected] = data.rejected
    assert rejected.reason == REASONS[name]
    assert rejected.id in ("bad", "rows.jsonl:3")
    assert rejected.id == "bad" or rejected.detail.startswith(f"{path}:3: ")
    assert len(rejected.detail) < 1100
    assert [json.loads(line)["reason"] for line in data.rejections_file.read_text().splitlines()] == [rejected.reason]
    groups = used_groups(data)
    assert list(groups) == GOOD_IDS
    assert all(group.pixels is not None for group in groups.values())


def test_seventy_kinds_of_bad_rows_are_tested() -> None:
    """The kinds have forty reasons; no two kinds have the same name."""
    assert len(REASONS) == len(ROWS) + len(PICTURES) >= 70
    assert len(set(REASONS.values())) >= 40


def test_all_kinds_together_respect_max_lost(small_encoder: Encoder, good: list[bytes], tmp_path: Path) -> None:
    """Above the limit, the error has the count of every reason; at or below it, every good row is planned."""
    bad_lines = [as_line(bad_row(name, tmp_path)) for name in REASONS]
    path = write_lines(tmp_path, [good[0], *bad_lines[:30], good[1], *bad_lines[30:], *good[2:]])
    counts = dict(Counter(REASONS.values()))
    share = len(bad_lines) / (len(bad_lines) + 4)
    with pytest.raises(TooManyRowsLost) as caught:
        read_data(local(path), small_encoder, max_lost=share - 0.001)
    message = str(caught.value)
    assert message.startswith(
        f"{len(bad_lines)} of {len(bad_lines) + 4} rows ({share:.2%}) cannot be used; data.max_lost allows"
    )
    assert "(" + ", ".join(f"{reason} {number}" for reason, number in sorted(counts.items())) + ")" in message
    assert len(message) < 25_000
    data = read_data(local(path), small_encoder, max_lost=share)
    assert data.skipped == {"s": counts}
    assert list(used_groups(data)) == GOOD_IDS
    assert data.plan is not None
    assert data.plan.steps == 4
