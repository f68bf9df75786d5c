"""Log output of the commands."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import TextIO

from basereward.io.progress import write_line
from basereward.io.secrets import redact


class RedactingFormatter(logging.Formatter):
    """Formats a record without the secrets in it; see `basereward.io.secrets`.

    >>> record = logging.LogRecord("basereward", logging.INFO, "", 0, "store http://me:secret@host", None, None)
    >>> RedactingFormatter().format(record)
    'store http://***@host'
    """

    def format(self, record: logging.LogRecord) -> str:
        """Formats the record, its arguments and its traceback, and then redacts the whole text."""
        return redact(super().format(record))


class BesideProgress(logging.StreamHandler[TextIO]):
    """Writes records to standard error without breaking the bar of a running phase.

    >>> BesideProgress(sys.stdout).emit(logging.LogRecord("basereward", logging.INFO, "", 0, "a line", None, None))
    a line
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record above the bar; as usual where nothing is shown."""
        # A record whose arguments do not fit its text raises, and the base class reports it.
        with contextlib.suppress(TypeError, ValueError, KeyError):
            if write_line(self.format(record)):
                return
        super().emit(record)


class DataWarningsOnce(logging.Filter):
    """Leaves out a warning about rows that was shown already.

    A command may read a source several times: to check a sample, to train, and to score. What it warns of is the same.

    >>> warning = logging.LogRecord("basereward.data.sources", logging.WARNING, "", 0, "not read: x", None, None)
    >>> once = DataWarningsOnce()
    >>> once.filter(warning), once.filter(warning)
    (True, False)
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown."""
        if record.levelno != logging.WARNING or not record.name.startswith("basereward.data."):
            return True
        text = record.getMessage()
        is_new = text not in self._shown
        self._shown.add(text)
        return is_new


@contextlib.contextmanager
def log_to_stderr(level: int = logging.INFO) -> Iterator[None]:
    """In the block, writes the records of our own loggers to standard error, each once, and warnings of rows once.

    Loggers of other libraries are not changed: without a handler of their own, they show only warnings.

    Args:
        level: the lowest level that is shown.

    >>> with log_to_stderr(logging.WARNING):
    ...     logging.getLogger("basereward").isEnabledFor(logging.INFO)
    False
    """
    ours = logging.getLogger("basereward")
    handler = BesideProgress(sys.stderr)
    handler.setFormatter(RedactingFormatter())
    handler.addFilter(DataWarningsOnce())
    before = ours.level, ours.propagate
    ours.addHandler(handler)
    ours.setLevel(level)
    # A library that sets up the root logger, as migrations of a database do, would show every line again.
    ours.propagate = False
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.level, ours.propagate = before
