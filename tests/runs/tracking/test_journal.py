"""The journal of a run: every record whole and in order, for one process at a time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from basereward.runs.tracking import journal as journal_module
from basereward.runs.tracking.journal import Delivered, RunJournal

START = {"kind": "start", "uri": "u", "experiment": "e", "name": "n", "parent": None, "tags": {}, "time": 0}


def read_all(journal: RunJournal) -> list[object]:
    """Return all records, each call to `read` starting where the last one ended."""
    records_read: list[object] = []
    position = 0
    while records := journal.read(position):
        records_read += [record for record, _ in records]
        position = records[-1][1]
    return records_read


def test_concurrent_threads_append_whole_records(tmp_path: Path) -> None:
    """Four threads append at once: no line is mixed with another or missing, and each thread's records keep their
    order."""
    journal = RunJournal(tmp_path / "outbox")
    assert journal.acquire()

    def work(name: int) -> None:
        for i in range(100):
            journal.append([{"kind": "x", "thread": name, "i": i, "text": "\u2028\n" * 50}])

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = read_all(journal)
    assert len(records) == 400
    for name in range(4):
        assert [r["i"] for r in records if r["thread"] == name] == list(range(100))  # type: ignore[index]


def test_lock_has_one_holder(tmp_path: Path) -> None:
    """A second holder must wait until the first releases it."""
    first, second = RunJournal(tmp_path), RunJournal(tmp_path)
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_incomplete_last_line_is_dropped(tmp_path: Path) -> None:
    """Half a record after a crash is never read, and does not damage the next record."""
    journal = RunJournal(tmp_path)
    journal.append([START])
    with journal.file.open("ab") as file:
        file.write(b'{"kind": "ha')
    assert read_all(journal) == [START]
    assert journal.acquire()
    journal.append([{"kind": "b"}])
    assert read_all(journal) == [START, {"kind": "b"}]


def test_read_buffer_size_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers smaller than a record, and records that end with a buffer, are read whole."""
    journal = RunJournal(tmp_path)
    records = [{"kind": "x" * i} for i in range(1, 60)]
    journal.append(records)
    for size in (1, 7, 13, 100, 1000):
        monkeypatch.setattr(journal_module, "READ_BYTES", size)
        assert read_all(journal) == records, size


def test_invalid_line_is_passed_on_as_unreadable(tmp_path: Path) -> None:
    """The next record is read."""
    journal = RunJournal(tmp_path)
    journal.append([{"kind": "a"}])
    with journal.file.open("ab") as file:
        file.write(b"?\n")
    journal.append([{"kind": "b"}])
    assert read_all(journal) == [{"kind": "a"}, {"kind": "unreadable", "line": "?\n"}, {"kind": "b"}]


def test_delivered_position_is_saved(tmp_path: Path) -> None:
    """Records are pending until the position is the end of the journal and the parent is named."""
    journal = RunJournal(tmp_path)
    assert not journal.pending
    journal.append([{"kind": "a"}])
    end = journal.read(0)[-1][1]
    for delivered, pending in (
        (Delivered(position=0, run_id="r", parent_named=True), True),
        (Delivered(position=end, run_id="r", parent_named=False), True),
        (Delivered(position=end, run_id="r", parent_named=True), False),
    ):
        journal.save(delivered)
        assert (RunJournal(tmp_path).delivered(), RunJournal(tmp_path).pending) == (delivered, pending)


BROKEN = [
    "",
    "[]",
    "{}",
    '{"kind": "met',
    "\x00" * 40 + "\n",
    "null\n",
    '{"kind": 5}\n',
    '{"kind": "start", "uri": "u"}\n',
]


@pytest.mark.parametrize("content", BROKEN)
def test_journal_without_a_start_record_is_set_aside(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An empty or truncated file, zeros after a power cut, or another value: nothing is pending, and a new journal
    begins."""
    journal = RunJournal(tmp_path)
    journal.file.write_text(content)
    journal.save(Delivered(position=10_000, run_id="r", parent_named=True))
    assert journal.acquire()
    assert not journal.pending
    assert journal.delivered() == Delivered(run_id="r", parent_named=True)
    journal.append([START])
    assert journal.start() == journal.last() == START
    assert read_all(journal) == [START]
    assert journal.pending
    if content.endswith("\n"):
        assert caplog.text.count(str(journal.file)) >= 1
        assert len(list(tmp_path.glob("journal.jsonl.broken-*"))) == 1


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"position": "1"}', '{"position": -1}', '{"unknown": 1}'])
def test_damaged_position_restarts_the_delivery(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """All records are delivered again, which the server stores once; the file is logged once."""
    journal = RunJournal(tmp_path)
    journal.append([START])
    (tmp_path / "delivered.json").write_text(text)
    assert [journal.delivered() for _ in range(3)] == [Delivered()] * 3
    assert journal.pending
    assert len(caplog.records) == 1
    assert str(tmp_path / "delivered.json") in caplog.text


def test_incomplete_records_are_unreadable(tmp_path: Path) -> None:
    """A record without a required field does not stop later records, and is not partly delivered."""
    journal = RunJournal(tmp_path)
    journal.append([START, {"kind": "metrics", "step": 1}, {"kind": "params", "values": []}, {"kind": "finish"}])
    assert [record["kind"] for record in read_all(journal)] == ["start", "unreadable", "unreadable", "unreadable"]  # type: ignore[index]
    assert not journal.closed
    journal.append([{"kind": "finish", "status": "FINISHED", "time": 1}])
    assert journal.closed


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "metrics", "step": 1, "time": 1, "values": {"a": [1]}},
        {"kind": "metrics", "step": "x", "time": 1, "values": {}},
        {"kind": "tags", "values": {"a": 5}},
        {"kind": "params", "values": {"a": {"b": 1}}},
        {"kind": "artifact", "path": 5, "folder": ""},
        {"kind": "finish", "status": "DONE", "time": 1},
        {"kind": "finish", "status": "FINISHED", "time": 10**30},
    ],
)
def test_values_that_mlflow_rejects_are_unreadable(tmp_path: Path, record: dict[str, object]) -> None:
    """MLflow's client would fail on them repeatedly, and no later record would be delivered."""
    journal = RunJournal(tmp_path)
    journal.append([START, record, {"kind": "a"}])
    assert [record["kind"] for record in read_all(journal)] == ["start", "unreadable", "a"]  # type: ignore[index]


@pytest.mark.parametrize(
    "bad_values", [{"uri": 5}, {"tags": [1]}, {"experiment": ""}, {"experiment": 5}, {"parent": 5}, {"time": "x"}]
)
def test_invalid_start_record_is_ignored(tmp_path: Path, bad_values: dict[str, object]) -> None:
    """No run can be made from it, so the journal is set aside."""
    journal = RunJournal(tmp_path)
    journal.append([START | bad_values])
    assert journal.start() is None
    assert journal.acquire()
    assert not journal.pending
