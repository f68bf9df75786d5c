"""Tunes the memory allocator of glibc for training on the CPU."""

from __future__ import annotations

import ctypes
import platform

# Parameters of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
# As a value of M_TRIM_THRESHOLD: never return memory to the kernel.
NEVER = -1


def keep_freed_memory() -> bool:
    """Let glibc keep the memory that a step frees for the next step.

    By default glibc returns blocks of megabytes to the kernel at once, and the next step pays for every page of its
    activations again: a tenth to a quarter of the time of a small step, half of the time of a large one. The peak
    memory does not change.

    Returns:
        Whether it was set; other C libraries have no such setting.

    >>> keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
    True
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    # The C library of this process itself: another copy would have a heap of its own.
    libc = ctypes.CDLL(None)
    # M_MMAP_THRESHOLD is limited to 32 MiB and would leave larger blocks mapped one by one, so mmap is switched off.
    return bool(libc.mallopt(M_TRIM_THRESHOLD, NEVER)) and bool(libc.mallopt(M_MMAP_MAX, 0))
