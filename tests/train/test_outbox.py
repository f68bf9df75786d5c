"""The journal keeps every record whole and in order, for one process at a time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from basereward.train import outbox
from basereward.train.outbox import Delivered, Outbox


def read_all(box: Outbox) -> list[object]:
    """Everything in the journal, read on from where the last reading ended."""
    found: list[object] = []
    position = 0
    while records := box.read(position):
        found += [record for record, _ in records]
        position = records[-1][1]
    return found


def test_records_of_many_threads_are_whole_and_each_thread_s_in_order(tmp_path: Path) -> None:
    """Four threads append at once: no line is mixed with another, none is missing."""
    box = Outbox(tmp_path / "outbox")
    assert box.acquire()

    def work(name: int) -> None:
        for i in range(100):
            box.append([{"kind": "x", "thread": name, "i": i, "text": "\u2028\n" * 50}])

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = read_all(box)
    assert len(records) == 400
    for name in range(4):
        assert [r["i"] for r in records if r["thread"] == name] == list(range(100))  # type: ignore[index]


def test_one_process_at_a_time_holds_the_lock(tmp_path: Path) -> None:
    """A second holder is told no until the first lets go."""
    first, second = Outbox(tmp_path), Outbox(tmp_path)
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_a_torn_last_line_is_dropped_and_the_next_record_is_whole(tmp_path: Path) -> None:
    """Half a record after a crash does not swallow the one that is written next, and is never read."""
    box = Outbox(tmp_path)
    box.append([{"kind": "a"}])
    with box.journal.open("ab") as file:
        file.write(b'{"kind": "ha')
    assert read_all(box) == [{"kind": "a"}]
    assert box.acquire()
    box.append([{"kind": "b"}])
    assert read_all(box) == [{"kind": "a"}, {"kind": "b"}]


def test_reading_in_pieces_gives_the_same_as_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces smaller than a record, and records that end where a piece ends, are read whole."""
    box = Outbox(tmp_path)
    records = [{"kind": "x" * i} for i in range(1, 60)]
    box.append(records)
    for size in (1, 7, 13, 100, 1000):
        monkeypatch.setattr(outbox, "READ_BYTES", size)
        assert read_all(box) == records, size


def test_a_line_that_is_no_json_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    """Someone has edited the journal: the line is handed on as unreadable, the next one is read."""
    box = Outbox(tmp_path)
    box.append([{"kind": "a"}])
    with box.journal.open("ab") as file:
        file.write(b"?\n")
    box.append([{"kind": "b"}])
    assert read_all(box) == [{"kind": "a"}, {"kind": "unreadable", "line": "?\n"}, {"kind": "b"}]


def test_what_is_delivered_is_remembered(tmp_path: Path) -> None:
    """Something is pending until the position is the end of the journal and the parent is named."""
    box = Outbox(tmp_path)
    assert not box.pending
    box.append([{"kind": "a"}])
    end = box.read(0)[-1][1]
    for delivered, pending in (
        (Delivered(position=0, run_id="r", parent_named=True), True),
        (Delivered(position=end, run_id="r", parent_named=False), True),
        (Delivered(position=end, run_id="r", parent_named=True), False),
    ):
        box.save(delivered)
        assert (Outbox(tmp_path).delivered(), Outbox(tmp_path).pending) == (delivered, pending)
