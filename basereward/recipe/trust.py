"""Whether code from outside this package may run. Only the caller decides, never a recipe or a saved model.

A recipe, a benchmark file and a saved model may come from somebody else. By themselves they can only name the heads,
losses, sources and other parts in the folders of this package. Any other class, and the Python files of a checkpoint
(`trust_remote_code`), run only inside a `trusting()` block, which `--trust` on the command line and `trust=True` in
Python open.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

# A context variable rather than a global: threads of a server may serve callers who trust different things.
_TRUSTED: ContextVar[bool] = ContextVar("basereward_trusts_foreign_code", default=False)

REMEDY = "allow it with --trust on the command line, or trust=True in Python"
"""The end of the messages about code that is not trusted."""


def is_trusted() -> bool:
    """Whether code from outside this package may run.

    >>> is_trusted()
    False
    """
    return _TRUSTED.get()


@contextlib.contextmanager
def trusting(trust: bool = True) -> Iterator[None]:
    """Allows code from outside this package in the block.

    It holds in the thread that opened the block, and in the processes that a sweep starts for its cells.

    Args:
        trust: False changes nothing, so that an outer block stays in force.

    >>> with trusting():
    ...     is_trusted()
    True
    """
    token = _TRUSTED.set(trust or _TRUSTED.get())
    try:
        yield
    finally:
        _TRUSTED.reset(token)
