"""Notices whether any process has opened a file."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

# linux/inotify.h
IN_OPEN = 0x20
IN_NONBLOCK = os.O_NONBLOCK


class WatchedFile:
    """A file whose openings by all processes are counted by the kernel, from the construction on (Linux)."""

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._events = libc.inotify_init1(IN_NONBLOCK)
        watch = libc.inotify_add_watch(self._events, os.fsencode(path), IN_OPEN)
        assert watch >= 0, os.strerror(ctypes.get_errno())

    def was_opened(self) -> bool:
        """Whether the file was opened since the last call."""
        try:
            return bool(os.read(self._events, 4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Watch no longer."""
        os.close(self._events)
