"""Whether code from outside of this package may run. Only the caller says so, never a recipe or a model's folder.

A recipe, a benchmark file and a saved model may come from somebody else. What they can name by itself are the heads,
losses, sources and other parts in the folders of this package. Any other class, and the Python files of a checkpoint
(`trust_remote_code`), run only inside of `trusting()`, which `--trust` on the command line and `trust=True` in Python
enter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_TRUSTED: ContextVar[bool] = ContextVar("basereward_trusts_foreign_code", default=False)

REMEDY = "it runs only with the caller's word: --trust on the command line, trust=True in Python"


def is_trusted() -> bool:
    """Whether foreign code may run here.

    >>> is_trusted()
    False
    """
    return _TRUSTED.get()


@contextlib.contextmanager
def trusting(trust: bool = True) -> Iterator[None]:
    """Lets foreign code run in the block. `trust=False` changes nothing, so an outer block keeps its word.

    The word holds in the thread that gave it, and in the processes that a sweep starts for its cells.

    >>> with trusting():
    ...     is_trusted()
    True
    """
    token = _TRUSTED.set(trust or _TRUSTED.get())
    try:
        yield
    finally:
        _TRUSTED.reset(token)
