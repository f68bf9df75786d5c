"""A cache of tensors on disk, which any number of processes and runs share.

    FOLDER/ab/abc....safetensors    the tensors of one key, named by the key
    FOLDER/total                    the lock file of writers, if the folder has a size limit; it contains the number of
                                    bytes of all entries

An entry is written under a temporary name and renamed, so a process that is killed at any moment leaves the old entry,
the new one, or none. Readers need no lock. The format has no checksum, so each entry carries one in its metadata, which
is verified at every read: a truncated or damaged file is the same as no file.

Torch is imported when tensors are first read or written, because `basereward.io` loads nothing heavy.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from safetensors import SafetensorError, safe_open

from basereward.io.files import FULL, free_space, is_special, write_state
from basereward.io.lease import acquire
from basereward.io.processes import HOUR_S, remove_leftovers

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"
TOTAL = "total"
"""Name of the lock file of a folder with a size limit."""
_TOTAL_DIGITS = 20
# The metadata field of an entry's file: its key, its identity and its checksum, as JSON.
_RECORD = "entry"
# The time stamp of a file comes from a coarser clock than `time.time`, and from the server's on a network file system.
_CLOCK_LAG_S = 2.0
_KEY = re.compile(r"[0-9a-f]{64}")
# A damaged header is an error of safetensors. A file that another process replaces by a shorter one, or deletes,
# between the reading of the header and the mapping of the tensors is a RuntimeError of torch.
_UNREADABLE = (OSError, ValueError, RuntimeError, SafetensorError)
# A process that is forked inherits the lock of a folder with the file descriptor, and would hold it until its own end.
# So a fork waits for a thread that is writing. The lock is reentrant, because a signal handler may fork in the writing
# thread itself.
_writing = threading.RLock()
os.register_at_fork(before=_writing.acquire, after_in_parent=_writing.release, after_in_child=_writing.release)


@dataclass(frozen=True, slots=True)
class SizeLimit:
    """The largest size of a cache folder, with the entries of all identities.

    >>> SizeLimit(2 * 2**30, setting="data.encoding.feature_cache").num_bytes
    2147483648
    """

    num_bytes: int
    setting: str
    """The recipe key that sets it, for the log."""


class TensorCache:
    """Maps keys to named tensors in a folder that it shares with other processes.

    The entries of several identities may share a folder, because the key is a hash that covers the identity too. A
    hash of the identity is stored in each entry and compared when the entry is read.

    When a folder with a size limit is full, entries that no process has used since this cache was made are deleted, the
    longest unused first. When none are left, nothing more is written. A run with more entries than fit thus finds some
    of them in every epoch. Deleting its own oldest entries (LRU) would leave it none, because an epoch asks for all of
    them in turn.

    Args:
        folder: the folder of the cache. It is created at the first write.
        identity: identifies everything that the tensors depend on, apart from what the keys identify.
        contents: what the tensors are, in the plural, for the log.
        limit: the largest size of the folder; None: no limit.
        earlier_files: glob patterns of files in the folder that earlier versions wrote and no version reads any more;
            they are deleted at the first write.

    Examples:
        >>> import tempfile, torch
        >>> cache = TensorCache(Path(tempfile.mkdtemp()), identity="tower 1", contents="image features")
        >>> cache.keep("ab" * 32, {"states": torch.ones(2, 3)})
        True
        >>> cache.find("ab" * 32)
        {'states': tensor([[1., 1., 1.],
                [1., 1., 1.]])}
        >>> cache.find("cd" * 32) is None
        True
    """

    def __init__(
        self,
        folder: Path,
        *,
        identity: str,
        contents: str,
        limit: SizeLimit | None = None,
        earlier_files: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.identity = identity
        self.contents = contents
        self.limit = limit
        self.earlier_files = tuple(earlier_files)
        self._budget = None if limit is None else _FolderBudget(folder, limit.num_bytes)
        self._cleared = False  # whether this process has deleted leftovers and files of earlier formats
        self._closed = False  # set when the folder is full or a write fails

    def file(self, key: str) -> Path:
        """The path of an entry, whether it exists or not.

        Args:
            key: 64 hexadecimal digits.

        Raises:
            ValueError: the key is anything else.

        >>> cache = TensorCache(Path("cache"), identity="tower 1", contents="image features")
        >>> cache.file("ab" * 32).as_posix()
        'cache/ab/abab...abab.safetensors'
        """
        if _KEY.fullmatch(key) is None:
            raise ValueError(f"the key of a cache entry is {key!r}; give 64 hexadecimal digits, such as a SHA-256")
        # One folder of a hundred thousand files is slow to list on many file systems.
        return self.folder / key[:2] / f"{key}{SUFFIX}"

    def find(self, key: str) -> dict[str, Tensor] | None:
        """Read the tensors of a key.

        Without a size limit they are memory-mapped: the system reads their pages from disk when they are needed, and
        may drop them again, so that all entries together may be larger than memory. With a limit they are copied into
        memory, because another machine may delete the file to make room, and a mapped file that is deleted on a network
        file system ends the process (SIGBUS). In both cases, writing to a tensor leaves the file as it is.

        Args:
            key: 64 hexadecimal digits.

        Returns:
            The tensors by name, on the CPU. None if there is no entry, or it is truncated, damaged, or of another key
            or identity; all but the first are logged as a warning.
        """
        file = self.file(key)
        try:
            tensors = _read(file, key=key, identity=self.identity, mapped=self.limit is None)
        except FileNotFoundError:
            return None
        except _UNREADABLE as error:
            logger.warning("the cached %s in %s cannot be read (%s) and are computed again", self.contents, file, error)
            return None
        if self._budget is not None:
            self._budget.mark_used(file)
        return tensors

    def keep(self, key: str, tensors: Mapping[str, Tensor]) -> bool:
        """Write the tensors of a key, in place of earlier ones.

        A disk that is full or cannot be written is no error, because the values can be computed again: the reason is
        logged as a warning, once, and this cache writes nothing more.

        Args:
            key: 64 hexadecimal digits.
            tensors: by name, on any device; they need not be contiguous.

        Returns:
            Whether the tensors have been written.
        """
        file = self.file(key)
        if self._closed:
            return False
        content = _serialize(tensors, key=key, identity=self.identity)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            written = self._write(file, content)
        except OSError as error:
            self._close(f"{self.contents} cannot be cached in {self.folder}: {_reason(error, self.folder)}")
            return False
        if not written:
            assert self.limit is not None
            self._close(
                f"{self.contents} in {self.folder} have reached the {self.limit.num_bytes:,} bytes that "
                f"{self.limit.setting} allows, and all are in use"
            )
        return written

    def _write(self, file: Path, content: bytes) -> bool:
        """Write an entry; False if it does not fit within the limit."""
        if self._budget is None:
            self._clear(older_than_s=HOUR_S)
            _write_entry(file, content)
            return True
        with _writing, acquire(self.folder / TOTAL, wait=True) as lease:
            # Writers hold the lock, so a temporary file of any age was left by a process that was killed.
            self._clear(older_than_s=0)
            with self._budget.reserve(file, len(content), total=lease.descriptor) as fits:
                if fits:
                    _write_entry(file, content)
            return fits

    def _clear(self, *, older_than_s: float) -> None:
        """Delete, once a process, what killed writers and earlier versions have left."""
        if self._cleared:
            return
        self._cleared = True
        remove_leftovers(self.folder, "*/.*.tmp", older_than_s=older_than_s)
        removed = 0
        for pattern in self.earlier_files:
            for file in self.folder.glob(pattern):
                # Another process deletes the same files, or they belong to another user.
                with contextlib.suppress(OSError):
                    file.unlink()
                    removed += 1
        if removed:
            logger.info("removed %d files of an earlier format from %s", removed, self.folder)

    def _close(self, reason: str) -> None:
        self._closed = True
        logger.warning("%s; the run continues, and further %s are not cached", reason, self.contents)


class _Entry(NamedTuple):
    """A file of the cache; entries sort by the time of their last use."""

    used: float
    size: int
    file: Path


class _FolderBudget:
    """Keeps the files of a folder within a number of bytes, together with all other processes that write there.

    The lock file contains the total of all entries, so that a write need not list the folder. Its methods, apart from
    `mark_used`, are called by the holder of the lock.

    Args:
        folder: of the cache.
        limit: bytes of all entries.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self.began = time.time() - _CLOCK_LAG_S
        self._unused: deque[_Entry] | None = None  # entries that may be deleted; None before the first write

    def mark_used(self, file: Path) -> None:
        """Record that this process has read an entry. The modification time says so to all processes."""
        with contextlib.suppress(OSError):  # the file belongs to another user, or was just deleted
            if file.stat().st_mtime < self.began:
                os.utime(file)

    @contextlib.contextmanager
    def reserve(self, file: Path, num_bytes: int, *, total: int) -> Iterator[bool]:
        """Make room for an entry, which the block writes.

        Args:
            file: of the entry; an old one is replaced.
            num_bytes: of the new one.
            total: descriptor of the lock file.

        Returns:
            Whether there is room; if not, the block must not write.
        """
        others = self._size(total) - _file_size(file)
        others -= self._make_room(others + num_bytes - self.limit, spare=file)
        fits = others + num_bytes <= self.limit
        if fits:
            # Before the file is written: if this process is killed in between, the total is too large, and other
            # processes still respect the limit.
            _write_total(total, others + _file_size(file) + num_bytes)
        try:
            yield fits
        finally:
            # The size as it is now, because the write may have failed.
            _write_total(total, others + _file_size(file))

    def _size(self, total: int) -> int:
        """Return the bytes of all entries."""
        stored = os.pread(total, _TOTAL_DIGITS, 0)
        # Entries are counted at the first write, because a process that was killed may have left a wrong total.
        if self._unused is not None and stored.isdigit():
            return int(stored)
        entries = list(self._entries())
        self._unused = deque(sorted(entry for entry in entries if entry.used < self.began))
        return sum(entry.size for entry in entries)

    def _entries(self) -> Iterator[_Entry]:
        for file in self.folder.glob(f"*/*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # a user empties the cache meanwhile
                status = file.stat()
                yield _Entry(status.st_mtime, status.st_size, file)

    def _make_room(self, needed: int, *, spare: Path) -> int:
        """Delete unused entries until `needed` bytes are free or none are left; return the number of freed bytes."""
        freed = 0
        while freed < needed and self._unused:
            entry = self._unused.popleft()
            with contextlib.suppress(FileNotFoundError):  # another process deleted it
                # A later time means that a process has used it since the entries were listed.
                if entry.file != spare and entry.file.stat().st_mtime == entry.used:
                    entry.file.unlink()
                    freed += entry.size
        return freed


def _write_total(descriptor: int, num_bytes: int) -> None:
    os.pwrite(descriptor, f"{num_bytes:0{_TOTAL_DIGITS}}".encode(), 0)


def _file_size(file: Path) -> int:
    """The bytes of a file; 0 if it does not exist."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _write_entry(file: Path, content: bytes) -> None:
    # Without fsync, which takes longer than the write itself. The checksum finds what a power failure has damaged.
    write_state(file, content, durable=False)


def _reason(error: OSError, folder: Path) -> str:
    """Why an entry cannot be written, and what to do."""
    reason = error.strerror or str(error)
    if error.errno in FULL:
        reason = f"{reason}, {free_space(folder)}"
    return f"{reason} (make room, or set BASEREWARD_CACHE to a folder that can be written)"


def _serialize(tensors: Mapping[str, Tensor], *, key: str, identity: str) -> bytes:
    """The content of an entry's file, in the safetensors format. Equal tensors give equal bytes."""
    from safetensors.torch import save

    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if len({tensor.untyped_storage().data_ptr() for tensor in own.values()}) < len(own):
        # `save` refuses tensors that share memory, such as two slices of one tensor.
        own = {name: tensor.clone() for name, tensor in own.items()}
    record = {"key": key, "identity": _hashed(identity), "crc32": _checksum(own, key=key, identity=identity)}
    # One field, because safetensors writes several in an order that changes from process to process.
    return save(own, metadata={_RECORD: json.dumps(record)})


def _read(file: Path, *, key: str, identity: str, mapped: bool) -> dict[str, Tensor]:
    """Read the tensors of an entry's file, memory-mapped or not, and verify them.

    Raises:
        OSError: the file cannot be opened.
        SafetensorError: the file is truncated, or its header is damaged.
        RuntimeError: the file has changed while it was opened.
        ValueError: the file is no regular one, belongs to another key or identity, or its checksum is wrong.
    """
    # Before it is opened, because opening a pipe waits for a writer.
    if is_special(file):
        raise ValueError("it is no regular file")
    with safe_open(file, framework="pt") as opened:
        metadata: dict[str, str] = opened.metadata() or {}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # it is no mapping
    if not mapped:
        # Before they are verified, so that what was verified is what the caller gets.
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    record = json.loads(metadata.get(_RECORD, "null"))
    if not isinstance(record, dict):
        raise ValueError("it is no entry of a tensor cache")
    if record.get("key") != key:
        raise ValueError("it belongs to another key")
    if record.get("identity") != _hashed(identity):
        raise ValueError("it belongs to another identity")
    if record.get("crc32") != _checksum(tensors, key=key, identity=identity):
        raise ValueError("its checksum is wrong")
    return tensors


def _hashed(identity: str) -> str:
    """An identity of any length as 64 characters, so that entries of equal tensors have equal sizes."""
    return hashlib.sha256(identity.encode()).hexdigest()


def _checksum(tensors: Mapping[str, Tensor], *, key: str, identity: str) -> str:
    """CRC-32 of all that an entry says: its key and identity, and the name, type, shape and bytes of each tensor.

    It covers the parsed header and not its bytes, because it is stored there itself.
    """
    names = sorted(tensors)
    layout = [(name, str(tensors[name].dtype), list(tensors[name].shape)) for name in names]
    crc = zlib.crc32(json.dumps([key, identity, layout]).encode())
    for name in names:
        crc = zlib.crc32(_bytes_of(tensors[name]), crc)
    return f"{crc:08x}"


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor, not copied. NumPy has no bfloat16, so the values are viewed as bytes."""
    import torch

    # A tensor of one element or none is contiguous whatever its stride is, and `view` takes a stride of 1 only.
    flat = tensor.flatten().as_strided((tensor.numel(),), (1,))
    return flat.view(torch.uint8).numpy().data
