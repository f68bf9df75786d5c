"""Removes the temporary files and folders of processes that were killed before they could rename or remove them."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

HOUR_S = 3600.0


def remove_leftovers(folder: Path, *patterns: str, older_than_s: float = HOUR_S) -> None:
    """Removes leftovers from a folder. An error is ignored, because a leftover takes disk space and does no harm.

    Args:
        folder: a folder that may be missing.
        patterns: patterns of `Path.glob` for the names of temporary files and folders.
        older_than_s: least age in seconds since the last change, so that files that a process still writes stay. 0
            where the caller holds a lock that excludes such a process.
    """
    now = time.time()
    for pattern in patterns:
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):
                if now - path.lstat().st_mtime < older_than_s:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
