"""A JSON Lines file that is appended to during long work, so that an interrupted call can continue."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from basereward.errors import DataError
from basereward.io.lease import Lease, acquire


class Journal:
    """A journal that only this process can write until it is closed.

    The first line describes the work; each further line is one result. An incomplete last line, which a killed process
    may leave, is removed. What is no regular file in its place is set aside.

    Args:
        file: the file, which is created with its folder if it does not exist.
        advice: the end of the message if another process writes it: what to do.

    Attributes:
        head: the first line as text; None in a new journal.
        lines: the other lines as text.

    Raises:
        DataError: another process writes the file, or it is not UTF-8.
        OSError: the file cannot be written.

    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "work.jsonl"
    >>> with Journal(place) as journal:
    ...     journal.restart({"of": "squares"})
    ...     journal.append([{"number": 3, "square": 9}])
    >>> Journal(place).lines
    ['{"number": 3, "square": 9}']
    """

    def __init__(self, file: Path, *, advice: str = "wait until that ends, or write to another path") -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lease = _locked(file, advice)
        self._lock = threading.Lock()
        try:
            content = file.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            # A line without its end was cut by a kill; the next line would be appended to it and both be lost.
            if len(whole) < len(content):
                os.ftruncate(self._lease.descriptor, len(whole))
            lines = whole.decode().split("\n")[:-1]
        except UnicodeDecodeError as error:
            self.close()
            raise DataError(f"'{file}' is damaged ({error}); move it away to start again") from error
        self.head: str | None = lines[0] if lines else None
        self.lines: list[str] = lines[1:]

    def restart(self, head: Mapping[str, Any]) -> None:
        """Drops what is there and writes the first line."""
        os.ftruncate(self._lease.descriptor, 0)
        self.head, self.lines = json.dumps(head), []
        self.append([head])

    def append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Adds lines, which are on the disk when this returns. Any thread may call it.

        Raises:
            OSError: they cannot be written, and none of them is in the file.
        """
        content = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
        descriptor = self._lease.descriptor
        with self._lock:
            size = os.fstat(descriptor).st_size
            try:
                while content:
                    content = content[os.write(descriptor, content) :]
                os.fsync(descriptor)
            except OSError:
                # A full disk takes a part of a line, to which the next line would be appended when there is room again.
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise

    def close(self) -> None:
        """Lets other processes write it."""
        self._lease.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_lease"):
            self.close()


def _locked(file: Path, advice: str) -> Lease:
    """The lease of the file, whose descriptor is open for appending.

    Raises:
        DataError: another process holds it.
    """
    while True:
        # It sets aside what is no regular file: opening a FIFO would wait for a reader.
        lease = acquire(file, wait=False, flags=os.O_RDWR | os.O_CREAT | os.O_APPEND)
        if lease is None:
            raise DataError(f"'{file}' is being written by another process; {advice}")
        try:
            # Its former holder may have removed the file between opening and locking: then the lock is on no name.
            if file.exists() and os.path.samestat(os.fstat(lease.descriptor), file.stat()):
                return lease
        except BaseException:
            lease.release()
            raise
        lease.release()
