"""Leases: what one process at a time holds, so that several processes can share a folder.

`acquire` takes a lock of the operating system on an open file, for processes of one machine. The kernel releases it
when the holder ends, however it ends, so a killed process leaves no stale lock. The lock file itself stays: to remove
it would let two processes lock two different files of the same name.

`acquire_shared` takes a lease that also holds between machines that share a file system, as NFS. A heartbeat keeps it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import re
import secrets
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeAlias, overload

from basereward.errors import RunError
from basereward.io.files import set_aside
from basereward.io.processes import identify_process, process_state, remove_leftovers, temporary_name

log = logging.getLogger(__name__)

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


# Leases that also hold between machines.
#
# A folder holds the history of a lease: `00000007` is held, `00000007.free` was released. The highest number counts.
# A number is created by one process alone, by a hard link or O_EXCL, which are atomic on NFS too. So one of several
# processes wins a free or an expired lease, and a holder that was replaced sees a higher number than its own. No
# process renames or removes the file of another one that may be live: a slow one could take a new lease for the old.

EXPIRY_S = 120.0
"""Seconds without a heartbeat after which a lease of another machine is free. A step that keeps Python's interpreter
lock for a minute, or a file server that does not answer for as long, must not cost a run its lease."""
EXPIRY_VARIABLE = "BASEREWARD_LEASE_SECONDS"
"""Environment variable with another number of seconds; all processes that share a folder need the same."""
BEATS = 12
"""Heartbeats in the time of expiry."""
WAIT_S = 0.25
"""Seconds between attempts to get a lease that another process holds."""
FREE = ".free"
NUMBER = re.compile(r"(\d{8})(\.free)?")


class LostLeaseError(RunError):
    """Another process has taken a lease of this one, which had sent no heartbeat for too long."""


class LeaseHolder(NamedTuple):
    """Who holds a lease.

    Attributes:
        process: of `identify_process`; empty when the file of the lease is damaged.
        is_live: false when the process has ended, or has sent no heartbeat for the time of expiry.
    """

    process: dict[str, Any]
    is_live: bool


class SharedLease:
    """A lease between processes of several machines, kept by a heartbeat. Made by `acquire_shared`.

    Attributes:
        folder: of the lease.
        lost: whether another process has taken the lease, because this one was silent for too long.
    """

    def __init__(self, folder: Path, number: int, *, expiry_s: float) -> None:
        self.folder = folder
        self.lost = False
        self._number = number
        self._file = folder / f"{number:08d}"
        self._expiry_s = expiry_s
        self._renewed_at = _running_time()
        self._pid = os.getpid()
        self._lock = threading.Lock()

    @property
    def is_held(self) -> bool:
        """Whether this process still holds the lease.

        Cheap where the heartbeat is recent. After a pause of this process it asks the file system, so that a process
        that was suspended learns of its loss before its next step.
        """
        if not self.lost and _running_time() - self._renewed_at > self._expiry_s / 3:
            self.renew()
        return not self.lost

    def renew(self) -> bool:
        """Send a heartbeat, and look for a successor.

        Returns:
            Whether the lease is still held.
        """
        with self._lock:
            if self.lost or self._number < 0:
                return False
            try:
                # Without a time: the file server sets its own, which all machines compare with.
                os.utime(self._file)
                self.lost = _newest(self.folder) != (self._number, False)
            except FileNotFoundError:
                self.lost = True
            except OSError as error:
                # A server that does not answer may answer again, and nobody can take the lease in the meantime; after
                # the time of expiry another machine, which reaches the server, may have taken it.
                self.lost = _running_time() - self._renewed_at > self._expiry_s
                log.warning("the lease %s cannot be renewed: %s", self._file, error)
            else:
                self._renewed_at = _running_time()
            return not self.lost

    def release(self) -> None:
        """Let other processes take the lease. Further calls do nothing, nor does a call in a forked child."""
        _heartbeat.remove(self)
        with self._lock:
            if self._number < 0 or self._pid != os.getpid():
                return
            self._number = -1
            if not self.lost:
                with contextlib.suppress(OSError):
                    self._file.rename(self._file.with_name(self._file.name + FREE))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@overload
def acquire_shared(folder: Path, *, wait: Literal[True], details: Mapping[str, Any] | None = ...) -> SharedLease: ...
@overload
def acquire_shared(folder: Path, *, wait: bool, details: Mapping[str, Any] | None = ...) -> SharedLease | None: ...


def acquire_shared(folder: Path, *, wait: bool, details: Mapping[str, Any] | None = None) -> SharedLease | None:
    """Take a lease that excludes every other process on every machine that shares the folder.

    A holder on this machine is looked up by its process: the lease of a live one never expires, and that of one that
    has ended is free at once. A holder on another machine, or in another container, is live as long as its heartbeat
    is younger than its time of expiry, by the clock of the file system. No clocks of two machines are compared.

    Args:
        folder: of the lease; it is created with its parents.
        wait: wait while another process holds the lease.
        details: JSON values that `shared_holder` returns with the process.

    Returns:
        The lease, or None when another process holds it and `wait` is false.

    Raises:
        OSError: the folder cannot be written.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "lease"
    >>> with acquire_shared(folder, wait=False) as lease:
    ...     acquire_shared(folder, wait=False) is None, lease.is_held
    (True, True)
    >>> acquire_shared(folder, wait=False).is_held
    True
    """
    set_aside(folder, is_folder=True)
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        lease = _take(folder, details or {})
        if lease is not None or not wait:
            return lease
        # Not the same for all: processes that met once would meet again.
        # Not by `random`, whose state the training has seeded.
        time.sleep(WAIT_S * (0.5 + secrets.randbelow(1000) / 1000))


def shared_holder(folder: Path) -> LeaseHolder | None:
    """Who holds a lease; None for a free one.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> shared_holder(folder) is None
    True
    >>> with acquire_shared(folder, wait=True):
    ...     shared_holder(folder).process["pid"] == os.getpid()
    True
    """
    # The file may be renamed between the listing and the reading.
    for _ in range(3):
        number, is_free = _newest(folder)
        if number == 0 or is_free:
            return None
        try:
            return _holder(folder / f"{number:08d}")
        except FileNotFoundError:
            continue
    return None


def expiry_seconds() -> float:
    """Seconds without a heartbeat after which a lease of another machine is free.

    Raises:
        RunError: the environment variable is no positive number.

    >>> expiry_seconds()
    120.0
    """
    text = os.environ.get(EXPIRY_VARIABLE)
    try:
        seconds = EXPIRY_S if text is None else float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise RunError(f"{EXPIRY_VARIABLE} is '{text}'; give a positive number of seconds, or unset it")
    return seconds


def _take(folder: Path, details: Mapping[str, Any]) -> SharedLease | None:
    """One attempt to get a lease."""
    expiry_s = expiry_seconds()
    number, is_free = _newest(folder)
    if number and not is_free:
        try:
            if _holder(folder / f"{number:08d}").is_live:
                return None
        except FileNotFoundError:
            # It was released or taken over just now.
            return None
    number += 1
    content = json.dumps({**identify_process(), **details, "expiry_s": expiry_s})
    if not _create(folder / f"{number:08d}", content):
        return None
    lease = SharedLease(folder, number, expiry_s=expiry_s)
    # Between our look at the folder and now others may have taken and released numbers from ours on.
    if _newest(folder) != (number, False):
        lease.lost = True
        (folder / f"{number:08d}").unlink(missing_ok=True)
        return None
    _remove_older(folder, number)
    _heartbeat.add(lease)
    return lease


def _newest(folder: Path) -> tuple[int, bool]:
    """The highest number in a folder, and whether it is released; 0 in a folder without any."""
    newest = (0, True)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if match := NUMBER.fullmatch(entry.name):
                newest = max(newest, (int(match[1]), match[2] is not None))
    return newest


def _create(file: Path, content: str) -> bool:
    """Create a file with its content; false when it exists."""
    temporary = file.with_name(temporary_name(f"{file.name}.{secrets.token_hex(4)}", ".tmp"))
    try:
        temporary.write_text(content)
        try:
            os.link(temporary, file)
        except FileExistsError:
            # An NFS server whose answer was lost gets the request a second time: then the file is ours.
            return temporary.stat().st_nlink == 2
        except OSError:
            return _create_exclusively(file, content)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _create_exclusively(file: Path, content: str) -> bool:
    """Create a file on a file system without hard links; a reader may see it before its content."""
    try:
        with file.open("x") as opened:
            opened.write(content)
    except FileExistsError:
        return False
    return True


def _holder(file: Path) -> LeaseHolder:
    """Who has created the file of a lease, and whether it still holds it.

    Raises:
        FileNotFoundError: the lease was released or taken over.
    """
    # To open the file, and not only to look it up, makes an NFS client ask the server for the present time stamp.
    with file.open() as opened:
        beat = os.fstat(opened.fileno()).st_mtime
        try:
            content = json.loads(opened.read())
        except ValueError:
            content = None
    process: dict[str, Any] = content if isinstance(content, dict) else {}
    state = process_state(process) if _is_of_this_machine(process) else "unknown"
    if state != "unknown":
        return LeaseHolder(process, state == "alive")
    expiry_s = process.get("expiry_s")
    limit_s = float(expiry_s) if isinstance(expiry_s, int | float) else EXPIRY_S
    return LeaseHolder(process, store_time(file.parent) - beat <= limit_s)


def _is_of_this_machine(process: Mapping[str, Any]) -> bool:
    """Whether a process can be looked up here. Two machines may have the same name, and never the same boot."""
    here = identify_process()
    return all(process.get(key) == here[key] for key in ("boot", "namespace", "host"))


def store_time(folder: Path) -> float:
    """The time of the clock that sets the time stamps of a folder's files, in seconds since 1970.

    On a file server this is the clock of the server. Where nothing can be written, it is that of this machine.

    >>> import tempfile
    >>> abs(store_time(Path(tempfile.mkdtemp())) - time.time()) < 5
    True
    """
    now = _running_time()
    # Measured anew every few seconds, because somebody may set a clock; not every time, because a list of runs asks for
    # thousands of leases.
    key = os.stat(folder).st_dev
    offset, measured_at = _clock_offsets.get(key, (0.0, -math.inf))
    if now - measured_at > CLOCK_S:
        probe = folder / temporary_name("clock", ".tmp")
        try:
            probe.touch()
            offset = probe.stat().st_mtime - now
            probe.unlink(missing_ok=True)
        except OSError:
            offset = time.time() - now
        _clock_offsets[key] = (offset, now)
    return now + offset


CLOCK_S = 5.0
"""Seconds for which a measured difference between two clocks is used."""
_clock_offsets: dict[int, tuple[float, float]] = {}


def _running_time() -> float:
    """Seconds that nobody sets, and that also pass while the machine is suspended."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def _remove_older(folder: Path, number: int) -> None:
    """Remove the history of a lease, but for its last numbers, which a slow process may still compare with.

    Also files that a killed process has not given their names.
    """
    remove_leftovers(folder, ".*.tmp")
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = NUMBER.fullmatch(entry.name)
            if match and int(match[1]) < number - 1:
                Path(entry.path).unlink(missing_ok=True)


class _Heartbeat:
    """The thread that renews all leases of this process."""

    def __init__(self) -> None:
        self._leases: list[SharedLease] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, lease: SharedLease) -> None:
        with self._lock:
            self._leases.append(lease)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="basereward-leases", daemon=True)
                self._thread.start()

    def remove(self, lease: SharedLease) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._leases.remove(lease)

    def forget(self) -> None:
        """In a forked child, which has no part in the leases of its parent."""
        self.__init__()  # type: ignore[misc]

    def _run(self) -> None:
        while True:
            with self._lock:
                leases = list(self._leases)
                if not leases:
                    self._thread = None
                    return
            for lease in leases:
                lease.renew()
            time.sleep(min(lease._expiry_s for lease in leases) / BEATS)


_heartbeat = _Heartbeat()
os.register_at_fork(after_in_child=_heartbeat.forget)
