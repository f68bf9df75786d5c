"""Takes the records of one outbox to a tracking server, in order, each once."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from basereward.io.secrets import redact
from basereward.runs.tracking.journal import Delivered, RunJournal, Record

log = logging.getLogger(__name__)

METRICS_A_BATCH = 1000
"""As many as MLflow takes in one request."""


class Refused(Exception):
    """The server will never take this, however often it is asked. Anything else that a store raises may pass."""


class Store(Protocol):
    """A tracking server. Each call may be repeated after a crash, and must then come to the same."""

    def open_run(self, start: Record) -> str:
        """The id of the run that the record describes; made when it is not there."""

    def name_parent(self, run_id: str, parent_id: str) -> None: ...
    def reopen(self, run_id: str) -> None: ...
    def metrics(self, run_id: str, records: list[Record]) -> None: ...
    def params(self, run_id: str, values: dict[str, str]) -> None: ...
    def tags(self, run_id: str, values: dict[str, str]) -> None: ...
    def artifact(self, run_id: str, path: Path, folder: str) -> None: ...
    def finish(self, run_id: str, status: str, time_ms: int) -> None: ...


class Courier:
    """Delivers one outbox. `connect(uri)` opens the store; `parent_id(parent)` is the parent's id there, or None.

    Only the holder of the outbox's lock may use it, from one thread.
    """

    def __init__(
        self, outbox: RunJournal, *, connect: Callable[[str], Store], parent_id: Callable[[str], str | None]
    ) -> None:
        self.outbox = outbox
        self.delivered: Delivered = outbox.delivered()
        self.uploading = False  # a file is on its way, which may take long and be well
        self._connect = connect
        self._parent_id = parent_id
        self._store: Store | None = None
        self._waiting: list[tuple[Record, int]] = []
        self._singly = 0  # so many records go one by one

    def deliver(self) -> bool:
        """Deliver the next record, or the next metrics together; False when there is nothing to do.

        Raises:
            Refused: when the server does not take the run at all.
            Exception: whatever the store raises when it cannot be reached; call again later.
        """
        if self.delivered.run_id is None:
            return self._open()
        if not self.delivered.parent_named and self._name_parent():
            return True
        if not self._waiting:
            self._waiting = self.outbox.read(self.delivered.position)
        if not self._waiting:
            return False
        count = self._batch()
        records = [record for record, _ in self._waiting[:count]]
        refused = self.delivered.refused
        try:
            self._send(records)
        except Refused as error:
            if count > 1:
                self._singly = count  # to find the one that is at fault
                return True
            self._set_aside(records[0], error)
            refused += 1
        self._singly = max(0, self._singly - count)
        self._save(replace(self.delivered, position=self._waiting[count - 1][1], refused=refused))
        del self._waiting[:count]
        self._clear(records)
        return True

    @property
    def store(self) -> Store:
        """The server, connected to at the first need."""
        if self._store is None:
            self._store = self._connect(self._start()["uri"])
        return self._store

    def _open(self) -> bool:
        if not self.outbox.read(0):
            return False
        start = self._start()
        run_id = self.store.open_run(start)
        self._save(replace(self.delivered, run_id=run_id, parent_named=start["parent"] is None))
        return True

    def _start(self) -> Record:
        start = self.outbox.start()
        if start is None:
            raise Refused(f"{self.outbox.journal} lacks its first record")
        return start

    def _name_parent(self) -> bool:
        parent_id = self._parent_id(self._start()["parent"])
        if parent_id is None:
            return False
        with contextlib.suppress(Refused):
            self.store.name_parent(str(self.delivered.run_id), parent_id)
        self._save(replace(self.delivered, parent_named=True))
        return True

    def _batch(self) -> int:
        """How many of the waiting records go together: metrics as far as one request holds them, else one."""
        count = values = 0
        if self._singly:
            return 1
        for record, _ in self._waiting:
            values += len(record.get("values", ()))
            if record["kind"] != "metrics" or (count and values > METRICS_A_BATCH):
                break
            count += 1
        return max(1, count)

    def _send(self, records: list[Record]) -> None:
        run_id, record = str(self.delivered.run_id), records[0]
        match record["kind"]:
            case "start":
                pass  # done when the run was opened
            case "metrics":
                self.store.metrics(run_id, records)
            case "params":
                self.store.params(run_id, record["values"])
            case "tags":
                self.store.tags(run_id, record["values"])
            case "artifact":
                path = self._path(record)
                if not path.is_file():
                    raise Refused(f"the file {path} is gone")
                self.uploading = True
                try:
                    self.store.artifact(run_id, path, record["folder"])
                finally:
                    self.uploading = False
            case "reopen":
                self.store.reopen(run_id)
            case "finish":
                self.store.finish(run_id, record["status"], record["time"])
            case _:
                raise Refused(f"a record of the unknown kind {record['kind']!r}")

    def _set_aside(self, record: Record, error: Refused) -> None:
        self.outbox.set_aside(record, reason=str(error))
        # A run that was deleted on the server refuses everything; once is enough to be told.
        level = logging.INFO if self.delivered.refused else logging.WARNING
        log.log(level, "MLflow refuses a record: %s. Such are kept in %s.", error, self.outbox.folder / "refused.jsonl")

    def _path(self, record: Record) -> Path:
        """The file of an artifact; a relative path, within the run's folder, survives a move of the folder."""
        return self.outbox.folder.parent / str(record["path"])

    def _clear(self, records: list[Record]) -> None:
        """Remove copies that were made for the delivery alone."""
        for record in records:
            if record.get("copied"):
                shutil.rmtree(self._path(record).parent, ignore_errors=True)

    def _save(self, delivered: Delivered) -> None:
        self.outbox.save(delivered)
        self.delivered = delivered


def describe(error: BaseException, *, limit: int = 200) -> str:
    """One short line about an error of a library, which may span pages and hold an address with a password.

    >>> describe(ValueError("no such thing\\nand so on"))
    'no such thing'
    """
    text = redact(str(error)).strip() or type(error).__name__
    line = text.splitlines()[0]
    return line if len(line) <= limit else line[: limit - 3] + "..."
