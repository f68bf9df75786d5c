"""A cache of image features on disk, shared by all epochs, runs and cells with the same frozen vision tower.

Any number of processes may use a folder. Readers need no lock, because files are written atomically. Writers hold a
lock while they write a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import PIL.Image

from basereward.data.images.vision_features import Features, pack, read
from basereward.io.lease import acquire

logger = logging.getLogger(__name__)

TOTAL = "total"  # the lock file of writers; it contains the number of bytes of all records
_TICK = 2.0  # seconds by which the time of a file may lag behind the clock


class _Record(NamedTuple):
    used: float
    size: int
    file: Path


class FeatureStore:
    """The features of one vision tower and image processor, in a folder shared with others.

    When the folder is full, records that no run has used since this one began are deleted, the longest unused first.
    When none are left, nothing more is written. A run with more images than fit thus finds a part of them in every
    epoch; deleting its own oldest records (LRU) would leave it none.

    Args:
        folder: the folder, with files `<first two digits of the key>/<key>`.
        setting: identifies everything that features depend on, apart from the image.
        gib: the largest size of the folder with all settings, in GiB.
    """

    def __init__(self, folder: Path, *, setting: str, gib: float) -> None:
        self.folder = folder
        self.setting = setting
        self.limit = int(gib * 2**30)
        self.began = time.time() - _TICK
        self._unused: deque[_Record] | None = None  # records that may be deleted; None before the first write
        self._closed = False  # set when the folder is full or a write fails

    def key(self, picture: bytes | PIL.Image.Image) -> str:
        """Compute the key of an image's features.

        Args:
            picture: the content of an image file, or a decoded image.
        """
        digest = hashlib.sha256(self.setting.encode())
        if isinstance(picture, bytes):
            digest.update(b"file")
            digest.update(picture)
        else:
            digest.update(repr((picture.mode, picture.size)).encode())
            digest.update(picture.tobytes())
        return digest.hexdigest()

    def file(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def find(self, key: str) -> Features | None:
        """Read cached features; None if there are none or the file is damaged."""
        file = self.file(key)
        features = read(file, key)
        if features is not None:
            with contextlib.suppress(OSError):  # the file belongs to another user, or was just deleted
                if file.stat().st_mtime < self.began:
                    os.utime(file)  # marks the record as used
        return features

    def keep(self, key: str, features: Features) -> bool:
        """Write the features of one image. If writing fails, a warning is logged and the run continues.

        Returns:
            Whether the features have been written.
        """
        if self._closed:
            return False
        content = pack(key, features)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._turn() as total:
                kept = self._write(self.file(key), content, total)
        except OSError as error:
            self._close(f"features of images cannot be stored in {self.folder}: {error}")
            return False
        if not kept:
            self._close(f"{self.folder} holds {self.limit:,} bytes, as data.encoding.feature_cache allows, all in use")
        return kept

    def _close(self, reason: str) -> None:
        self._closed = True
        logger.warning("%s; the features of further images are computed every time", reason)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[int]:
        """The turn to write: the open file of the total, locked."""
        with acquire(self.folder / TOTAL, wait=True) as lease:
            yield lease.descriptor

    def _write(self, file: Path, content: bytes, total: int) -> bool:
        held = self._held(total)
        replaced = file.stat().st_size if file.exists() else 0
        held -= self._make_room(held - replaced + len(content) - self.limit, spare=file)
        fits = held - replaced + len(content) <= self.limit
        if fits:
            part = file.with_name(f"{file.name}.part")
            file.parent.mkdir(exist_ok=True)
            # The total is raised before the file is written: if this process is killed in between, the total is too
            # large, and others still respect the limit.
            os.pwrite(total, b"%020d" % (held + len(content)), 0)
            part.write_bytes(content)
            os.replace(part, file)
            held += len(content) - replaced
        os.pwrite(total, b"%020d" % held, 0)
        return fits

    def _held(self, total: int) -> int:
        """Return the bytes of all records. They are counted at the first write of a run, since a killed run may have
        left a wrong total."""
        stored = os.pread(total, 20, 0)
        if self._unused is not None and stored.isdigit():
            return int(stored)
        records = list(self._records())
        self._unused = deque(sorted(record for record in records if record.used < self.began))
        return sum(record.size for record in records)

    def _records(self) -> Iterator[_Record]:
        for folder in self.folder.iterdir():
            for file in folder.iterdir() if folder.is_dir() else ():
                if file.suffix == ".part":
                    file.unlink()  # left by a killed writer: this process holds the lock
                else:
                    status = file.stat()
                    yield _Record(status.st_mtime, status.st_size, file)

    def _make_room(self, needed: int, *, spare: Path) -> int:
        """Delete unused records until `needed` bytes are free or none are left; return the number of freed bytes."""
        freed = 0
        while freed < needed and self._unused:
            record = self._unused.popleft()
            with contextlib.suppress(FileNotFoundError):  # another process deleted it
                if record.file != spare and record.file.stat().st_mtime == record.used:
                    record.file.unlink()
                    freed += record.size
        return freed
