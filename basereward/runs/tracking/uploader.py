"""Uploads the records of one journal to a tracking server, in their order, each once."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from basereward.io.secrets import redact
from basereward.runs.tracking.journal import Delivered, Record, RunJournal

log = logging.getLogger(__name__)

METRICS_PER_REQUEST = 1000
"""The limit of MLflow's `log-batch` request."""


class Refused(Exception):
    """The server rejects a request permanently. After any other exception of a store the request is repeated.

    >>> raise Refused("the experiment is deleted")
    Traceback (most recent call last):
    basereward.runs.tracking.uploader.Refused: the experiment is deleted
    """


class Store(Protocol):
    """A tracking server. A crash may repeat any call, so each call must be idempotent."""

    def open_run(self, start: Record) -> str:
        """Return the id of the run that the record describes; create the run when it does not exist."""

    def name_parent(self, run_id: str, parent_id: str) -> None:
        """Make the run a child of another run, given by its id on the server."""

    def reopen(self, run_id: str) -> None:
        """Mark a finished run as running again, because it is resumed."""

    def metrics(self, run_id: str, records: list[Record]) -> None:
        """Store the metrics of several records, each with its own step and time."""

    def params(self, run_id: str, values: dict[str, str]) -> None:
        """Store parameters of the run."""

    def tags(self, run_id: str, values: dict[str, str]) -> None:
        """Store tags, which replace tags of the same name."""

    def artifact(self, run_id: str, path: Path, folder: str) -> None:
        """Store a file under its own name in a folder of the run; '' for none."""

    def inputs(self, run_id: str, datasets: list[dict[str, str]]) -> None:
        """Store the data sets that the run reads."""

    def model(self, run_id: str, record: Record) -> None:
        """Create the model of the run that the record names, or mark it as ready."""

    def model_artifact(self, run_id: str, name: str, path: Path, folder: str) -> None:
        """Store a file under its own name in a folder of a model of the run; '' for none."""

    def finish(self, run_id: str, status: str, time_ms: int) -> None:
        """Mark the run as FINISHED, FAILED or KILLED, at a time in milliseconds since 1970."""


class Uploader:
    """Uploads one journal. Only the holder of the journal's lock may use it, from one thread.

    Args:
        journal: of the run.
        connect: opens the store at an address.
        parent_id: maps the parent that the journal names to its id on the server; None while it is unknown there.
    """

    def __init__(
        self, journal: RunJournal, *, connect: Callable[[str], Store], parent_id: Callable[[str], str | None]
    ) -> None:
        self.journal = journal
        self.delivered: Delivered = journal.delivered()
        # A large file may take minutes without any other sign of progress.
        self.uploading_file = False
        self._connect = connect
        self._parent_id = parent_id
        self._store: Store | None = None
        self._pending: list[tuple[Record, int]] = []
        # How many of the next records are sent one by one, after a refused batch.
        self._single_requests = 0

    def upload_next(self) -> bool:
        """Upload the next record, or the next records of metrics in one request.

        Returns:
            Whether there was something to do.

        Raises:
            Refused: the server does not accept the run at all.
            Exception: the store raises it when the server cannot be reached; call again later.
        """
        if self.delivered.run_id is None:
            return self._open_run()
        if not self.delivered.parent_named and self._name_parent():
            return True
        if not self._pending:
            self._pending = self.journal.read(self.delivered.position)
        if not self._pending:
            return False
        count = self._batch_size()
        records = [record for record, _ in self._pending[:count]]
        refused = self.delivered.refused
        try:
            self._send(records)
        except Refused as error:
            if count > 1:
                # Repeat the records one by one, to find the one at fault.
                self._single_requests = count
                return True
            self._set_aside(records[0], error)
            refused += 1
        self._single_requests = max(0, self._single_requests - count)
        self._save(replace(self.delivered, position=self._pending[count - 1][1], refused=refused))
        del self._pending[:count]
        # After saving: a crash in between leaves a copy too many, not a record without its file.
        self._delete_copies(records)
        return True

    @property
    def store(self) -> Store:
        """The server; the first use connects to it."""
        if self._store is None:
            self._store = self._connect(self._start()["uri"])
        return self._store

    def _open_run(self) -> bool:
        if not self.journal.read(0):
            return False
        start = self._start()
        run_id = self.store.open_run(start)
        self._save(replace(self.delivered, run_id=run_id, parent_named=start["parent"] is None))
        return True

    def _start(self) -> Record:
        start = self.journal.start()
        if start is None:
            raise Refused(f"{self.journal.file} has no first record")
        return start

    def _name_parent(self) -> bool:
        parent_id = self._parent_id(self._start()["parent"])
        if parent_id is None:
            return False
        with contextlib.suppress(Refused):
            self.store.name_parent(str(self.delivered.run_id), parent_id)
        self._save(replace(self.delivered, parent_named=True))
        return True

    def _batch_size(self) -> int:
        """How many of the pending records go into one request: metrics up to the limit of a request, else one."""
        if self._single_requests:
            return 1
        count = values = 0
        for record, _ in self._pending:
            values += len(record.get("values", ()))
            if record["kind"] != "metrics" or (count and values > METRICS_PER_REQUEST):
                break
            count += 1
        return max(1, count)

    def _send(self, records: list[Record]) -> None:
        run_id, record = str(self.delivered.run_id), records[0]
        match record["kind"]:
            case "start":
                # `_open_run` has created the run from this record.
                pass
            case "metrics":
                self.store.metrics(run_id, records)
            case "params":
                self.store.params(run_id, record["values"])
            case "tags":
                self.store.tags(run_id, record["values"])
            case "artifact":
                self._send_file(run_id, record)
            case "inputs":
                self.store.inputs(run_id, record["datasets"])
            case "model":
                self.store.model(run_id, record)
            case "reopen":
                self.store.reopen(run_id)
            case "finish":
                self.store.finish(run_id, record["status"], record["time"])
            case _:
                raise Refused(f"a record of the unknown kind {record['kind']!r}")

    def _send_file(self, run_id: str, record: Record) -> None:
        path = self._path(record)
        if not path.is_file():
            raise Refused(f"the file {path} is gone")
        self.uploading_file = True
        try:
            if name := record.get("model"):
                self.store.model_artifact(run_id, name, path, record["folder"])
            else:
                self.store.artifact(run_id, path, record["folder"])
        finally:
            self.uploading_file = False

    def _set_aside(self, record: Record, error: Refused) -> None:
        self.journal.set_aside(record, reason=str(error))
        # A run that was deleted on the server refuses every record; one warning is enough.
        level = logging.INFO if self.delivered.refused else logging.WARNING
        file = self.journal.folder / "refused.jsonl"
        log.log(level, "MLflow refuses a record: %s. Refused records are kept in %s.", error, file)

    def _path(self, record: Record) -> Path:
        """The file of an artifact. Its path is relative to the run folder, and so survives a move of the folder."""
        return self.journal.folder.parent / str(record["path"])

    def _delete_copies(self, records: list[Record]) -> None:
        """Delete the copies that were made for the upload alone."""
        for record in records:
            if record.get("copied"):
                shutil.rmtree(self._path(record).parent, ignore_errors=True)

    def _save(self, delivered: Delivered) -> None:
        self.journal.save(delivered)
        self.delivered = delivered


def describe(error: BaseException, *, limit: int = 200) -> str:
    """Describe an error of a library in one short line, without passwords.

    Such errors can span pages, and hold an address with a password.

    Args:
        error: any exception.
        limit: the largest number of characters.

    >>> describe(ValueError("no such thing\\nand so on"))
    'no such thing'
    """
    text = redact(str(error)).strip() or type(error).__name__
    line = text.splitlines()[0]
    return line if len(line) <= limit else line[: limit - 3] + "..."
