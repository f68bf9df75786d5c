"""The journal keeps every record whole and in order, for one process at a time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from basereward.runs.tracking import journal as journal_module
from basereward.runs.tracking.journal import Delivered, RunJournal

START = {"kind": "start", "uri": "u", "experiment": "e", "name": "n", "parent": None, "tags": {}, "time": 0}


def read_all(journal: RunJournal) -> list[object]:
    """Everything in the journal, read on from where the last reading ended."""
    records_read: list[object] = []
    position = 0
    while records := journal.read(position):
        records_read += [record for record, _ in records]
        position = records[-1][1]
    return records_read


def test_records_of_many_threads_are_whole_and_each_thread_s_in_order(tmp_path: Path) -> None:
    """Four threads append at once: no line is mixed with another, none is missing."""
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


def test_one_process_at_a_time_holds_the_lock(tmp_path: Path) -> None:
    """A second holder is refused until the first releases it."""
    first, second = RunJournal(tmp_path), RunJournal(tmp_path)
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_a_torn_last_line_is_dropped_and_the_next_record_is_whole(tmp_path: Path) -> None:
    """Half a record after a crash does not swallow the one that is written next, and is never read."""
    journal = RunJournal(tmp_path)
    journal.append([START])
    with journal.file.open("ab") as file:
        file.write(b'{"kind": "ha')
    assert read_all(journal) == [START]
    assert journal.acquire()
    journal.append([{"kind": "b"}])
    assert read_all(journal) == [START, {"kind": "b"}]


def test_reading_in_pieces_gives_the_same_as_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces smaller than a record, and records that end where a piece ends, are read whole."""
    journal = RunJournal(tmp_path)
    records = [{"kind": "x" * i} for i in range(1, 60)]
    journal.append(records)
    for size in (1, 7, 13, 100, 1000):
        monkeypatch.setattr(journal_module, "READ_BYTES", size)
        assert read_all(journal) == records, size


def test_a_line_that_is_no_json_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    """Someone has edited the journal: the line is handed on as unreadable, the next one is read."""
    journal = RunJournal(tmp_path)
    journal.append([{"kind": "a"}])
    with journal.file.open("ab") as file:
        file.write(b"?\n")
    journal.append([{"kind": "b"}])
    assert read_all(journal) == [{"kind": "a"}, {"kind": "unreadable", "line": "?\n"}, {"kind": "b"}]


def test_what_is_delivered_is_remembered(tmp_path: Path) -> None:
    """Something is pending until the position is the end of the journal and the parent is named."""
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
def test_a_journal_without_its_first_record_is_set_aside(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Empty, cut, zeros after a power cut, another value: nothing is pending, and a new record begins whole."""
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
def test_a_damaged_note_of_what_is_delivered_means_the_beginning(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All is delivered again, which a server stores once; it is named once however often it is read."""
    journal = RunJournal(tmp_path)
    journal.append([START])
    (tmp_path / "delivered.json").write_text(text)
    assert [journal.delivered() for _ in range(3)] == [Delivered()] * 3
    assert journal.pending
    assert len(caplog.records) == 1
    assert str(tmp_path / "delivered.json") in caplog.text


def test_damaged_records_are_handed_on_as_unreadable(tmp_path: Path) -> None:
    """A record that lacks what its kind needs does not stop the ones behind it, nor is it half delivered."""
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
def test_values_that_no_server_takes_are_unreadable(tmp_path: Path, record: dict[str, object]) -> None:
    """MLflow's client would fail on them again and again, and nothing behind them would be delivered."""
    journal = RunJournal(tmp_path)
    journal.append([START, record, {"kind": "a"}])
    assert [record["kind"] for record in read_all(journal)] == ["start", "unreadable", "a"]  # type: ignore[index]


@pytest.mark.parametrize(
    "wrong", [{"uri": 5}, {"tags": [1]}, {"experiment": ""}, {"experiment": 5}, {"parent": 5}, {"time": "x"}]
)
def test_a_first_record_of_wrong_values_is_none(tmp_path: Path, wrong: dict[str, object]) -> None:
    """No run can be made of it, so that the journal is set aside."""
    journal = RunJournal(tmp_path)
    journal.append([START | wrong])
    assert journal.start() is None
    assert journal.acquire()
    assert not journal.pending
