"""Features of pictures on the disk, for every run, epoch and cell whose frozen vision tower would make them again.

Any number of processes share a folder. Readers take no lock: a file is there whole or not at all. Writers take turns
for as long as a file takes to write.
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

TOTAL = "total"  # the file that writers lock, and that says how many bytes all records have
_TICK = 2.0  # seconds that the time of a file may be behind the clock


class _Record(NamedTuple):
    used: float
    size: int
    file: Path


class FeatureStore:
    """The features of one tower behind one image processor, among those of others.

    When the folder is full, records make room that no run has used since this one began, the longest unused first;
    then nothing more is written. A run that goes through more pictures than there is room for thus finds as many of
    them as fit in every epoch, where dropping the oldest of its own would leave it none.

    Args:
        folder: holds `<first two digits of the key>/<key>`.
        setting: tells everything apart, besides the picture itself, that features depend on.
        gib: the most that the folder may hold, of all settings together, in GiB.
    """

    def __init__(self, folder: Path, *, setting: str, gib: float) -> None:
        self.folder = folder
        self.setting = setting
        self.limit = int(gib * 2**30)
        self.began = time.time() - _TICK
        self._unused: deque[_Record] | None = None  # that may make room; None before the first writing
        self._closed = False  # whether nothing more can be written

    def key(self, picture: bytes | PIL.Image.Image) -> str:
        """The name of a picture's features.

        Args:
            picture: the content of an image file, or the pixels where there is no file.
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
        """Features that were kept; None where there are none, or none whole."""
        file = self.file(key)
        found = read(file, key)
        if found is not None:
            with contextlib.suppress(OSError):  # another's file, or just gone
                if file.stat().st_mtime < self.began:
                    os.utime(file)
        return found

    def keep(self, key: str, features: Features) -> bool:
        """Writes the features of one picture; whether there was room. A disk that takes nothing costs time, not the
        run."""
        if self._closed:
            return False
        content = pack(key, features)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._turn() as total:
                kept = self._write(self.file(key), content, total)
        except OSError as error:
            self._close(f"features of pictures cannot be kept in {self.folder}: {error}")
            return False
        if not kept:
            self._close(f"{self.folder} holds {self.limit:,} bytes, as data.encoding.feature_cache allows, all in use")
        return kept

    def _close(self, reason: str) -> None:
        self._closed = True
        logger.warning("%s; those of further pictures are computed every time", reason)

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
            # A writer that is killed from here on leaves a total that is too large, which others keep the limit with.
            os.pwrite(total, b"%020d" % (held + len(content)), 0)
            part.write_bytes(content)
            os.replace(part, file)
            held += len(content) - replaced
        os.pwrite(total, b"%020d" % held, 0)
        return fits

    def _held(self, total: int) -> int:
        """Bytes of all records. They are counted at a run's first writing, since one that is killed leaves a wrong
        total."""
        told = os.pread(total, 20, 0)
        if self._unused is not None and told.isdigit():
            return int(told)
        records = list(self._records())
        self._unused = deque(sorted(record for record in records if record.used < self.began))
        return sum(record.size for record in records)

    def _records(self) -> Iterator[_Record]:
        for folder in self.folder.iterdir():
            for file in folder.iterdir() if folder.is_dir() else ():
                if file.suffix == ".part":
                    file.unlink()  # of a writer that was killed: another's turn would not be over
                else:
                    found = file.stat()
                    yield _Record(found.st_mtime, found.st_size, file)

    def _make_room(self, needed: int, *, spare: Path) -> int:
        """Takes away what is unused until so many bytes are free, or nothing is left; how many were freed."""
        freed = 0
        while freed < needed and self._unused:
            record = self._unused.popleft()
            with contextlib.suppress(FileNotFoundError):  # another process took it away
                if record.file != spare and record.file.stat().st_mtime == record.used:
                    record.file.unlink()
                    freed += record.size
        return freed
