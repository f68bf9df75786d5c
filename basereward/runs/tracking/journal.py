"""The journal of a run: the records for the tracking server, and how many of them the server has.

outbox/
├── journal.jsonl    one record per line, in the order of their creation; a record is whole when its line end is there
├── delivered.json   the byte of the journal up to which the server has everything, and the run's id on the server
├── refused.jsonl    records that the server rejects permanently, each with the reason
├── files/           copies of files that could have changed before their upload
└── lease/           held by the one process that writes or uploads, on whatever machine
"""

from __future__ import annotations

import contextlib
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
from basereward.io.files import set_aside, state_folder, write_state
from basereward.io.lease import SharedLease, acquire_shared
from basereward.io.limits import read_json_object

log = logging.getLogger(__name__)

Record: TypeAlias = dict[str, Any]
READ_BYTES = 1 << 20
"""Bytes of the journal that are read at once. A run of weeks has a journal of hundreds of megabytes."""
LAST_BYTES = 1 << 16
"""Bytes at the journal's end in which its last record is searched. The records of interest there are short."""
REFUSED = "refused.jsonl"
LARGEST = 2**63 - 1
"""The largest integer that an SQL database stores (BIGINT)."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return isinstance(value, str | None)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def _is_text_mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _is_number_mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, int | float) for item in value.values())


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _is_list_of_mappings(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text_mapping(item) for item in value)


FIELDS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "start": {
        "uri": _is_text,
        "experiment": lambda value: isinstance(value, str) and bool(value),
        "name": _is_text_or_none,
        "parent": _is_text_or_none,
        "tags": _is_text_mapping,
        "time": _is_integer,
    },
    "metrics": {"step": _is_integer, "time": _is_integer, "values": _is_number_mapping},
    "params": {"values": _is_text_mapping},
    "tags": {"values": _is_text_mapping},
    "artifact": {"path": _is_text, "folder": _is_text},
    "inputs": {"datasets": _is_list_of_mappings},
    "model": {"name": _is_text, "step": _is_integer, "params": _is_text_mapping, "ready": _is_boolean},
    "finish": {"status": lambda value: value in ("FINISHED", "FAILED", "KILLED"), "time": _is_integer},
}
"""The required fields of each kind of record, with a check of their values.

A power cut or an editor can damage the journal. A record on which MLflow's client fails would block all records
behind it, so such a record is recognised here and set aside.
"""


@dataclass(frozen=True)
class Delivered:
    """How much of a journal the server has. Written after each request, so that a crash repeats at most one.

    Attributes:
        position: bytes of the journal that are uploaded.
        run_id: id of the run on the server; None before the run exists there.
        parent_named: whether the server knows the parent of the run, or there is no parent.
        refused: number of records that the server rejected.

    >>> Delivered(position=-1)
    Traceback (most recent call last):
    TypeError: wrong values: {'position': -1, ...}
    """

    position: int = 0
    run_id: str | None = None
    parent_named: bool = False
    refused: int = 0

    def __post_init__(self) -> None:
        """
        Raises:
            TypeError: a value that was read from a file has the wrong type.
        """
        numbers_valid = isinstance(self.position, int) and self.position >= 0 and isinstance(self.refused, int)
        if not (numbers_valid and isinstance(self.run_id, str | None) and isinstance(self.parent_named, bool)):
            raise TypeError(f"wrong values: {asdict(self)}")


class RunJournal:
    """The journal of one run.

    Several threads may append and read. One process at a time holds the lock.

    Args:
        folder: the folder `outbox` of a run folder.

    >>> import tempfile
    >>> journal = RunJournal(Path(tempfile.mkdtemp()))
    >>> journal.acquire()
    True
    >>> journal.append([{"kind": "metrics", "step": 1, "time": 0, "values": {"train/loss": 0.5}}])
    >>> [record["values"] for record, position in journal.read(0)]
    [{'train/loss': 0.5}]
    >>> journal.release()
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "journal.jsonl"
        self._append_lock = threading.Lock()
        self._lease: SharedLease | None = None

    def acquire(self) -> bool:
        """Take the lock, and repair the journal after a crash.

        A half-written last line is removed. A journal without its first record is renamed, because nothing in it can
        be uploaded; so is a pipe, a device or a folder in the place of a file.

        Returns:
            Whether this process now holds the lock; false when another one does.
        """
        # The lease needs its folder, which a run without tracking does not have.
        state_folder(self.folder)
        lease = acquire_shared(self.folder / "lease", wait=False)
        if lease is None:
            return False
        self._lease = lease
        for file in (self.file, self.folder / "delivered.json", self.folder / REFUSED):
            set_aside(file)
        self._drop_torn_line()
        self._rename_broken()
        return True

    def release(self) -> None:
        """Release the lock, so that another process can upload the rest."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def append(self, records: Iterable[Record]) -> None:
        """Append records, all or none.

        Raises:
            OSError: the disk is full, for example; the journal is as it was.
        """
        data = "".join(json.dumps(record) + "\n" for record in records).encode()
        # Unbuffered: a record is in the file when this returns, and survives the death of the process.
        with self._append_lock, self.file.open("ab", buffering=0) as file:
            size_before = file.seek(0, os.SEEK_END)
            try:
                written = 0
                while written < len(data):
                    written += file.write(data[written:])
            except BaseException:
                file.truncate(size_before)
                raise

    def read(self, position: int) -> list[tuple[Record, int]]:
        """Read whole records from a byte of the journal on, about one megabyte of them.

        Returns:
            Each record with the byte position after it, from which the next call continues.
        """
        # To open a pipe would wait for a writer.
        if not self.file.is_file():
            return []
        try:
            with self.file.open("rb") as file:
                file.seek(position)
                # `readline` completes the last line, also when it is longer than `READ_BYTES`.
                data = file.read(READ_BYTES) + file.readline()
        except FileNotFoundError:
            return []
        records = []
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                # Another thread is writing this record.
                break
            position += len(line)
            records.append((_parse(line), position))
        return records

    def start(self) -> Record | None:
        """The first record, from which the run is created on the server; None when it is missing or damaged."""
        records = self.read(0)
        first = records[0][0] if records else {}
        return first if first.get("kind") == "start" else None

    def last(self) -> Record | None:
        """The last whole record; None when there is none, or it is longer than `LAST_BYTES`."""
        lines = self._last_lines()
        return _parse(lines[-1]) if lines else None

    def last_step(self) -> int:
        """The step of the last metrics of the training in the last `LAST_BYTES`; 0 without any."""
        for line in reversed(self._last_lines()):
            record = _parse(line)
            if record["kind"] == "metrics" and any(name.startswith("train/") for name in record["values"]):
                return int(record["step"])
        return 0

    def _last_lines(self) -> list[bytes]:
        if not self.file.is_file():
            return []
        try:
            with self.file.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - LAST_BYTES))
                return file.read().split(b"\n")[:-1]
        except OSError:
            return []

    @property
    def closed(self) -> bool:
        """Whether the last record says how the run ended."""
        last = self.last()
        return last is not None and last["kind"] == "finish"

    def delivered(self) -> Delivered:
        """How much of the journal the server has.

        When that is unknown, the upload starts from the beginning. This changes nothing on the server, which stores
        equal records once.
        """
        file = self.folder / "delivered.json"
        if not file.exists():
            return Delivered()
        try:
            delivered = Delivered(**read_json_object(file, error=RunError))
        except (RunError, TypeError) as error:
            warn_once(f"{file} is damaged ({error}). All records of {self.file} are uploaded again.")
            return Delivered()
        # The journal was replaced by a shorter one, so the position is not valid.
        if delivered.position > self._size():
            return Delivered(run_id=delivered.run_id, parent_named=delivered.parent_named)
        return delivered

    def save(self, delivered: Delivered) -> None:
        """Store how much of the journal the server has."""
        write_state(self.folder / "delivered.json", json.dumps(asdict(delivered)))

    def set_aside(self, record: Record, *, reason: str) -> None:
        """Keep a record that the server rejects, so that it does not block the records behind it."""
        with (self.folder / REFUSED).open("a") as file:
            file.write(json.dumps({"reason": reason, "record": record}) + "\n")

    def copy_file(self, source: Path) -> Path:
        """Copy a file that may change or disappear before its upload, and return the path of the copy."""
        folder = state_folder(self.folder / "files")
        # Each copy has a numbered folder of its own, because it is uploaded under the name of its source.
        # Begins at the number of copies, because counting from 0 would probe every earlier one.
        number = len(os.listdir(folder))
        while (folder / str(number)).exists():
            number += 1
        target = folder / str(number) / source.name
        target.parent.mkdir()
        shutil.copyfile(source, target)
        return target

    def delete(self) -> None:
        """Delete the journal and everything beside it: the server does not accept the run."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pending(self) -> bool:
        """Whether the journal holds something that the server does not have yet."""
        size = self._size()
        delivered = self.delivered()
        return size > 0 and (delivered.position < size or not delivered.parent_named)

    def _size(self) -> int:
        try:
            return self.file.stat().st_size if self.file.is_file() else 0
        except FileNotFoundError:
            return 0

    def _rename_broken(self) -> None:
        if not self._size() or self.start() is not None:
            return
        target = self.file.with_name(f"{self.file.name}.broken-{secrets.token_hex(2)}")
        self.file.rename(target)
        warn_once(f"{self.file} has no first record, so nothing in it can be uploaded. It was renamed to {target}.")

    def _drop_torn_line(self) -> None:
        """Remove a record that a crash left half written. Its writer never returned, so nobody relies on it."""
        with contextlib.suppress(FileNotFoundError), self.file.open("rb+") as file:
            size = end = file.seek(0, os.SEEK_END)
            while end > 0:
                start = max(0, end - READ_BYTES)
                file.seek(start)
                line_end = file.read(end - start).rfind(b"\n")
                if line_end >= 0:
                    end = start + line_end + 1
                    break
                end = start
            if end < size:
                log.warning("A record of %s was half written when its process died; it is dropped.", self.file)
                file.truncate(end)


def _parse(line: bytes) -> Record:
    """Parse a line of a journal; an invalid one becomes a record of the kind `unreadable`."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if isinstance(record, dict) and isinstance(record.get("kind"), str):
        fields = FIELDS.get(record["kind"], {})
        if all(field in record and is_valid(record[field]) for field, is_valid in fields.items()):
            return record
    return {"kind": "unreadable", "line": line.decode(errors="replace")}


_warned: set[str] = set()


def warn_once(message: str) -> None:
    """Log a warning about a damaged file once per process, because its folder is read many times.

    >>> warn_once("the file is damaged")
    """
    if message not in _warned:
        _warned.add(message)
        log.warning("%s", message)
