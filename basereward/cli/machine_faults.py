"""Errors of the machine as messages: no memory, no file, no disk. They are nobody's bug and need no traceback."""

from __future__ import annotations

import os
from collections.abc import Iterator

from basereward.io.files import describe_fault

OUT_OF_MEMORY = (
    *("can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc", "unable to allocate"),
    *("failed to map segment", "can't start new thread", "resource temporarily unavailable"),
)
"""Parts of the messages with which libraries report missing memory when they do not raise MemoryError."""


def machine_fault(error: BaseException) -> str | None:
    """The message for an error of the machine, with what to do; None for any other error.

    The causes count too: a library may report a failed import when there was no memory for it.

    >>> machine_fault(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes"))[:21]
    'there is not enough m'
    >>> machine_fault(ValueError("x")) is None
    True
    """
    for cause in _causes(error):
        if _is_out_of_memory(cause):
            text = str(cause).strip()
            # Python's own MemoryError has no text, and that of a library may have pages.
            reason = text.splitlines()[0][:200] if text else "MemoryError"
            return (
                f"there is not enough memory ({reason}). Close other programs, raise the limit (ulimit -v), or make "
                "the work smaller: batch.tokens, batch.groups_per_forward, data.workers"
            )
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return "a path that was given has a NUL character, which no name of a file has; give another path"
    # Only the error itself: its cause may be an OSError that a library expected and handled.
    return describe_fault(error) if isinstance(error, OSError) else None


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    # Only types that libraries raise for it: a ValueError that quotes these words is a bug and keeps its traceback.
    if not isinstance(error, OSError | RuntimeError | ImportError | SystemError):
        return False
    text = str(error).lower()
    return any(words in text for words in OUT_OF_MEMORY)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and the errors that it came from, at most ten: a chain may be circular."""
    current: BaseException | None = error
    for _ in range(10):
        if current is None:
            return
        yield current
        # A library that catches MemoryError and raises its own error often forgets `from`; it is in the context then.
        current = current.__cause__ or current.__context__


def working_folder() -> str:
    """The path of the working folder.

    Raises:
        OSError: it has been deleted.

    >>> working_folder() == os.getcwd()
    True
    """
    try:
        return os.getcwd()
    except FileNotFoundError as error:
        raise OSError("the working folder has been deleted; change to a folder that exists") from error
