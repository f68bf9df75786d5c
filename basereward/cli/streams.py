"""Standard input, output and error, whatever the caller has made of them."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator

from basereward.errors import RunError

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line end


def check_streams() -> None:
    """Make sure that the three standard streams are there, so that no file that is opened gets one of their numbers.

    A closed input or error is replaced by nothing.

    Raises:
        RunError: standard output is closed, so the result could not be given; said before any work is done.
    """
    closed = [number for number in (0, 1, 2) if _is_closed(number)]
    for number in closed:
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
    if 0 in closed:
        sys.stdin = os.fdopen(0, closefd=False)
    if 2 in closed:
        sys.stderr = os.fdopen(2, "w", closefd=False)
    if 1 in closed:
        sys.stdout = os.fdopen(1, "w", closefd=False)
        raise RunError("standard output is closed, so there is no place for the result; send it to a file or /dev/null")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what the terminal's encoding lacks is shown by its number
            stream.reconfigure(errors="backslashreplace")


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False


def visible(text: str) -> str:
    """The text with control characters shown by their numbers: names and rows of others must not steer a terminal.

    >>> visible("a\\x1b[31mb\\tc\\n")
    'a\\\\x1b[31mb\\tc\\n'
    """
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def tell(text: str) -> None:
    """Print to standard error, where that takes anything."""
    try:
        print(visible(text), file=sys.stderr, flush=True)
    except OSError:
        silence(2)


def silence(number: int) -> None:
    """Send a standard stream to nowhere, so that Python does not fail on it once more when it ends."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)


def flush_errors() -> None:
    """Write what is left for standard error, or drop it when it takes nothing: it must not change how we end."""
    try:
        sys.stderr.flush()
    except OSError:
        silence(2)


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """While a command works, whatever it or a process of its own prints goes to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
