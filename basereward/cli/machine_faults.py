"""Faults of the machine as sentences: no memory, no file, no disk. They are nobody's slip and need no traceback."""

from __future__ import annotations

import os
from collections.abc import Iterator

from basereward.io.files import describe_fault

OUT_OF_MEMORY = (
    *("can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc", "unable to allocate"),
    *("failed to map segment", "can't start new thread", "resource temporarily unavailable"),
)
"""How libraries say that there is no memory, when they do not raise MemoryError."""


def machine_fault(error: BaseException) -> str | None:
    """What the machine refused, and what to do; None when the error is something else.

    Looks at the causes too: a library may say that a module cannot be imported because there was no memory for it.

    >>> machine_fault(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes"))[:21]
    'there is not enough m'
    >>> machine_fault(ValueError("x")) is None
    True
    """
    for each in _chain(error):
        text = str(each)
        told_so = isinstance(each, OSError | RuntimeError | ImportError | SystemError)
        if isinstance(each, MemoryError) or (told_so and any(words in text.lower() for words in OUT_OF_MEMORY)):
            reason = text.strip().splitlines()[0][:200] if text.strip() else "MemoryError"
            return (
                f"there is not enough memory ({reason}). Close other programs, lift the limit (ulimit -v), or make the "
                "work smaller: batch.tokens, batch.groups_per_forward, data.workers"
            )
    return describe_fault(error) if isinstance(error, OSError) else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, at most ten of them."""
    current: BaseException | None = error
    for _ in range(10):
        if current is None:
            return
        yield current
        current = current.__cause__ or current.__context__


def working_folder() -> str:
    """The working folder.

    Raises:
        OSError: it has been deleted; the message says what to do.
    """
    try:
        return os.getcwd()
    except FileNotFoundError as error:
        raise OSError("the working folder has been deleted; change to one that exists") from error
