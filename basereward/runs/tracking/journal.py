"""A journal of what a tracking server should know, and how much of it has been delivered.

outbox/
├── journal.jsonl    one record a line, in the order they were made; a record is whole when its line end is there
├── delivered.json   the byte in the journal up to which all is delivered, and the run's id on the server
├── refused.jsonl    records that the server will never take, each with the reason
├── files/           copies of files that might have changed before they were delivered
└── lock             held by the one process that writes or delivers
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from basereward.errors import RunError
from basereward.io.files import write_atomic
from basereward.io.limits import read_json_object

log = logging.getLogger(__name__)

Record: TypeAlias = dict[str, Any]
READ_BYTES = 1 << 20
LAST_BYTES = 1 << 16
"""Of the journal's end that are read for its last record; the records that are looked for there are short."""
LARGEST = 2**63 - 1
"""Of the whole numbers that a database can hold."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return isinstance(value, str | None)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _is_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, int | float) for each in value.values())


FIELDS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "start": {
        "uri": _is_text,
        "experiment": lambda value: isinstance(value, str) and bool(value),
        "name": _is_text_or_none,
        "parent": _is_text_or_none,
        "tags": _is_texts,
        "time": _is_whole,
    },
    "metrics": {"step": _is_whole, "time": _is_whole, "values": _is_numbers},
    "params": {"values": _is_texts},
    "tags": {"values": _is_texts},
    "artifact": {"path": _is_text, "folder": _is_text},
    "finish": {"status": lambda value: value in ("FINISHED", "FAILED", "KILLED"), "time": _is_whole},
}
"""What a record of each kind must have, and which values are right. The journal may have been damaged by a power cut or
by hand, and a record that MLflow's client fails on would hold up all behind it."""


@dataclass(frozen=True)
class Delivered:
    """How far the delivery has come. Written after each step, so a crash repeats at most one."""

    position: int = 0  # bytes of the journal
    run_id: str | None = None  # on the server
    parent_named: bool = False  # the server knows the parent, or there is none
    refused: int = 0  # records set aside

    def __post_init__(self) -> None:
        """
        Raises:
            TypeError: a value that was read from a file has the wrong type.
        """
        right = isinstance(self.position, int) and self.position >= 0 and isinstance(self.refused, int)
        if not (right and isinstance(self.run_id, str | None) and isinstance(self.parent_named, bool)):
            raise TypeError(f"wrong values: {asdict(self)}")


class RunJournal:
    """One run's journal. Appending and reading are safe from several threads; one process at a time holds the lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal.jsonl"
        self._append = threading.Lock()
        self._lock: int | None = None

    def acquire(self) -> bool:
        """Become the one process that writes and delivers; False when another one is.

        Mends a torn last line, and sets a journal aside that lacks its first record: nothing in it can be delivered.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            # The kernel lets go of it when the process dies, however it dies.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._lock = descriptor
        self._drop_torn_line()
        self._set_broken_aside()
        return True

    def release(self) -> None:
        """Let another process deliver the rest."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def append(self, records: Iterable[Record]) -> None:
        """Add records, all or none.

        Raises:
            OSError: when the disk is full, say; the journal is as it was.
        """
        data = "".join(json.dumps(record) + "\n" for record in records).encode()
        with self._append, self.journal.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                written = 0
                while written < len(data):
                    written += file.write(data[written:])
            except BaseException:
                file.truncate(before)
                raise

    def read(self, position: int) -> list[tuple[Record, int]]:
        """Whole records from a byte of the journal on, about a megabyte of them, each with the byte after it."""
        try:
            with self.journal.open("rb") as file:
                file.seek(position)
                # A line longer than what is read at once is read whole.
                data = file.read(READ_BYTES) + file.readline()
        except FileNotFoundError:
            return []
        records = []
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            position += len(line)
            records.append((_parse(line), position))
        return records

    def start(self) -> Record | None:
        """The first record, of which the run is made on the server; None when it is not there or damaged."""
        records = self.read(0)
        first = records[0][0] if records else {}
        return first if first.get("kind") == "start" else None

    def last(self) -> Record | None:
        """The last whole record; None when there is none, or it is longer than `LAST_BYTES`."""
        try:
            with self.journal.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - LAST_BYTES))
                lines = file.read().split(b"\n")[:-1]
        except OSError:
            return None
        return _parse(lines[-1]) if lines else None

    @property
    def closed(self) -> bool:
        """Whether the record has its end: the last thing that it says is how the run ended."""
        last = self.last()
        return last is not None and last["kind"] == "finish"

    def delivered(self) -> Delivered:
        """How far the delivery has come; the beginning when nothing is known.

        From the beginning all is delivered again, which changes nothing on the server.
        """
        file = self.folder / "delivered.json"
        if not file.exists():
            return Delivered()
        try:
            delivered = Delivered(**read_json_object(file, error=RunError))
        except (RunError, TypeError) as error:
            warn_once(f"{file} is damaged ({error}); what {self.journal} holds is delivered again.")
            return Delivered()
        if delivered.position > self._size():
            return Delivered(run_id=delivered.run_id, parent_named=delivered.parent_named)
        return delivered

    def save(self, delivered: Delivered) -> None:
        """Remember how far the delivery has come."""
        write_atomic(self.folder / "delivered.json", json.dumps(asdict(delivered)))

    def set_aside(self, record: Record, *, reason: str) -> None:
        """Keep a record that the server refuses, so that it does not hold up the ones behind it."""
        with (self.folder / "refused.jsonl").open("a") as file:
            file.write(json.dumps({"reason": reason, "record": record}) + "\n")

    def keep(self, source: Path) -> Path:
        """Copy a file that may change or go before it is delivered."""
        folder = self.folder / "files"
        folder.mkdir(parents=True, exist_ok=True)
        place = folder / str(len(os.listdir(folder))) / source.name
        while place.parent.exists():
            place = folder / str(int(place.parent.name) + 1) / source.name
        place.parent.mkdir()
        shutil.copyfile(source, place)
        return place

    def forget(self) -> None:
        """Drop everything: the server does not want the run."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pending(self) -> bool:
        """Whether there is something that the server does not know yet."""
        size = self._size()
        delivered = self.delivered()
        return size > 0 and (delivered.position < size or not delivered.parent_named)

    def _size(self) -> int:
        try:
            return self.journal.stat().st_size
        except FileNotFoundError:
            return 0

    def _set_broken_aside(self) -> None:
        if not self._size() or self.start() is not None:
            return
        place = self.journal.with_name(f"{self.journal.name}.broken-{secrets.token_hex(2)}")
        self.journal.rename(place)
        warn_once(f"{self.journal} lacks its first record, so nothing in it can be delivered; it is now {place}.")

    def _drop_torn_line(self) -> None:
        """Cut off a record that a crash left half written; nobody was told that it is there."""
        with contextlib.suppress(FileNotFoundError), self.journal.open("rb+") as file:
            size = end = file.seek(0, os.SEEK_END)
            while end > 0:
                start = max(0, end - READ_BYTES)
                file.seek(start)
                found = file.read(end - start).rfind(b"\n")
                if found >= 0:
                    end = start + found + 1
                    break
                end = start
            if end < size:
                log.warning("A record of %s was half written when its process died; it is dropped.", self.journal)
                file.truncate(end)


def _parse(line: bytes) -> Record:
    """A line of a journal; one that is no record becomes a record of the kind `unreadable`."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if isinstance(record, dict) and isinstance(record.get("kind"), str):
        fields = FIELDS.get(record["kind"], {})
        if all(field in record and right(record[field]) for field, right in fields.items()):
            return record
    return {"kind": "unreadable", "line": line.decode(errors="replace")}


_warned: set[str] = set()


def warn_once(message: str) -> None:
    """Log a warning about a damaged file, once in a process: its folder is read many times."""
    if message not in _warned:
        _warned.add(message)
        log.warning("%s", message)
