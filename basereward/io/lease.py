"""Leases: files that one process at a time holds, so that several processes can share a folder.

A lease is a lock of the operating system on an open file. The kernel releases it when the holder ends, however it ends,
so a killed process leaves no stale lock. The lock file itself stays: to remove it would let two processes lock two
different files of the same name.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeAlias, overload

from basereward.io.files import set_aside

Owner: TypeAlias = Literal["descriptor", "process"]
"""What a lock belongs to.

`descriptor`: the open file (`flock`). Two leases of one process exclude each other; a forked child shares the lock of
its parent and keeps it alive.
`process`: the process alone (`lockf`). A forked child has no part in it. A second lease of the same process succeeds,
and closing any descriptor of the file in this process ends the lock.
"""


class Lease:
    """A held lock. Use it as a context manager, or call `release`.

    >>> import tempfile
    >>> lock_file = Path(tempfile.mkdtemp()) / "lock"
    >>> with acquire(lock_file, wait=False) as lease:
    ...     acquire(lock_file, wait=False) is None
    True
    >>> acquire(lock_file, wait=False) is None
    False
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        """The open lock file, for callers that also read or write it."""

    def release(self) -> None:
        """Let other processes take the lease. Further calls do nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


READ_WRITE = os.O_RDWR | os.O_CREAT


@overload
def acquire(path: Path, *, wait: Literal[True], owner: Owner = ..., flags: int = ...) -> Lease: ...
@overload
def acquire(path: Path, *, wait: bool, owner: Owner = ..., flags: int = ...) -> Lease | None: ...


def acquire(path: Path, *, wait: bool, owner: Owner = "descriptor", flags: int = READ_WRITE) -> Lease | None:
    """Lock a file for this process.

    Args:
        path: the lock file; created when it does not exist and `flags` contain `O_CREAT`; then a pipe, a device or a
            folder in its place is set aside. A folder can be locked with `flags=os.O_RDONLY`.
        wait: block until the present holder releases the file.
        owner: what the lock belongs to; see `Owner`.
        flags: of `os.open`.

    Returns:
        The lease, or None when another holder has the file and `wait` is false.

    Raises:
        OSError: the file cannot be opened, or its file system has no locks.

    >>> import tempfile
    >>> lease = acquire(Path(tempfile.mkdtemp()) / "lock", wait=True)
    >>> lease.descriptor >= 0
    True
    >>> lease.release()
    """
    lock = fcntl.flock if owner == "descriptor" else fcntl.lockf
    if flags & os.O_CREAT:
        set_aside(path)
    # A program that this process starts must not inherit the descriptor, because it would keep the lock.
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        lock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        # POSIX allows both EAGAIN and EACCES for a record lock that is held.
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return Lease(descriptor)
