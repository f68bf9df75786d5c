"""Removal of temporary files and folders of processes that were killed before they could rename or remove them."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

HOUR_S = 3600.0


def remove_leftovers(folder: Path, *patterns: str, older_than_s: float = HOUR_S) -> None:
    """Removes what is left in a folder. Nothing is raised where that fails: a leftover takes room and does no harm.

    Args:
        folder: it may be missing.
        patterns: of names in it, as of `Path.glob`; only names of temporary files and folders.
        older_than_s: since the last change, in seconds: what a process may still be writing is left alone. 0 where a
            lock says that there is no such process.
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
