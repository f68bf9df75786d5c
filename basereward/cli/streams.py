"""Standard input, output and error, in whatever state the caller left them: closed, full, or without a reader."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator

from basereward.errors import RunError

# All control characters but tab and line feed.
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def check_streams() -> None:
    """Opens standard streams that are closed, so that no file that is opened later gets their descriptor.

    A closed standard input or error is replaced by the null device.

    Raises:
        RunError: standard output is closed. The result would have no place, so this is raised before any work.
    """
    closed = [descriptor for descriptor in (0, 1, 2) if _is_closed(descriptor)]
    for descriptor in closed:
        # For reading and writing, since it may take the place of any of the three streams.
        null = os.open(os.devnull, os.O_RDWR)
        # The system assigns the lowest free number, which is often the wanted one already.
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)
    if 0 in closed:
        sys.stdin = os.fdopen(0, closefd=False)
    if 2 in closed:
        sys.stderr = os.fdopen(2, "w", closefd=False)
    if 1 in closed:
        sys.stdout = os.fdopen(1, "w", closefd=False)
        raise RunError(
            "standard output is closed, so the result cannot be printed; redirect it to a file or to /dev/null"
        )
    for stream in (sys.stdout, sys.stderr):
        # A terminal with an ASCII locale cannot print every name; an escape is better than an exception.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


def escape_control_characters(text: str) -> str:
    """The text with its control characters escaped, because names and rows from others must not control a terminal.

    >>> escape_control_characters("a\\x1b[31mb\\tc\\n")
    'a\\\\x1b[31mb\\tc\\n'
    """
    return _CONTROL_CHARACTERS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def print_to_stderr(text: str) -> None:
    """Prints to standard error; the text is dropped where that cannot be written.

    >>> print_to_stderr("basereward: interrupted")
    """
    try:
        print(escape_control_characters(text), file=sys.stderr, flush=True)
    except OSError:
        redirect_to_null(2)


def redirect_to_null(descriptor: int) -> None:
    """Sends a standard stream to the null device, so that Python's own flush at exit does not fail again."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)


def flush_stderr() -> None:
    """Flushes standard error, or drops its buffer where it cannot be written: that must not change the exit status.

    >>> flush_stderr()
    """
    try:
        sys.stderr.flush()
    except OSError:
        redirect_to_null(2)


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Sends everything that this process or its children print in the block to standard error.

    Both levels are needed: children and C libraries write to the descriptor, Python code to `sys.stdout`.
    """
    # What Python has buffered belongs to standard output and must not follow the descriptor to standard error.
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
