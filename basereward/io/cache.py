"""The folder of results that any run can compute again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$BASEREWARD_CACHE`, by default `~/.cache/basereward`.

    >>> cache_folder().is_absolute() or "BASEREWARD_CACHE" in os.environ
    True
    """
    return Path(os.environ.get("BASEREWARD_CACHE") or Path.home() / ".cache" / "basereward")
