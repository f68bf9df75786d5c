"""What a run says while it works."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

from basereward.io.secrets import redact


class RedactingFormatter(logging.Formatter):
    """Formats a line, and leaves out the secrets in it; see `basereward.io.secrets`."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


@contextlib.contextmanager
def log_to_stderr(level: int = logging.INFO) -> Iterator[None]:
    """While a command works, our own log lines of this level and above go to standard error, each once.

    Other libraries keep what they have: without a handler of their own, only warnings are shown.
    """
    ours = logging.getLogger("basereward")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter())
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
