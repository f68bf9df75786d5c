"""Where the pictures that rows name lie: a folder, or archives that are read without being unpacked."""

from __future__ import annotations

import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

from basereward.data.screening import RowLost
from basereward.errors import DataError

ARCHIVES = (".zip", ".tar")
MAX_BYTES = 1 << 30  # of one picture in an archive; a small member may unpack to more than the memory holds


class ImageError(RowLost):
    """A picture cannot be used."""


# What reading a member raises: one that is damaged, cut, encrypted, or packed in a way that is not known here.
BROKEN = (
    OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, RuntimeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """A picture inside an archive."""

    archive: str
    member: str

    def __str__(self) -> str:
        return f"{self.archive}:{self.member}"

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            ImageError: `image_missing`, `image_unreadable` or `image_too_large`.
        """
        try:
            return _opened(self.archive, os.getpid()).read(self.member)
        except KeyError:
            first = _opened(self.archive, os.getpid()).first
            detail = f"{self.archive} has no member {self.member}; its first is {first}"
            raise ImageError("image_missing", detail) from None
        except ImageError:
            raise
        except BROKEN as error:
            raise ImageError("image_unreadable", f"{self}: {error}") from error


class ImageStore:
    """Finds the pictures that rows name.

    Args:
        root: the folder that relative paths start from.
        archives: zip or tar files; with them, every picture is looked for in these, in their order.
        closed: whether names must stay below the root, as those in a data set of somebody else's must.

    Raises:
        DataError: an archive is of an unknown kind.
    """

    def __init__(
        self, root: str | Path | None = None, *, archives: Sequence[str | Path] = (), closed: bool = False
    ) -> None:
        self.root = Path(root) if root is not None else Path()
        self.archives = [str(archive) for archive in archives]
        self.closed = closed
        for archive in self.archives:
            if Path(archive).suffix not in ARCHIVES:
                raise DataError(
                    f"{archive}: unknown kind of archive; known are {', '.join(ARCHIVES)}. "
                    "Parts (.zip_aa, .zip_ab) are joined first: cat images.zip_* > images.zip"
                )

    def find(self, name: str | Path) -> Path | ArchivedImage:
        """Where the picture of a name is; it is not opened.

        Raises:
            ImageError: `image_outside_root`.
        """
        if not self.closed and not self.archives:
            return self.root / name
        pure = self._pure(name)
        if self.archives:
            holding = [archive for archive in self.archives if _opened(archive, os.getpid()).has(str(pure))]
            return ArchivedImage((holding or self.archives)[0], str(pure))
        return self.root / name

    def listing(self, folder: str) -> list[str]:
        """The names, as `find` takes them, of the files directly in a folder, of archives in the first that has it.
        None when there is no such folder.

        Raises:
            ImageError: `image_outside_root`.
        """
        pure = self._pure(folder)
        if self.archives:
            listings = (_opened(archive, os.getpid()).listing(str(pure)) for archive in self.archives)
            return next((names for names in listings if names), [])
        within = self.root / pure
        return [str(pure / file.name) for file in within.iterdir() if file.is_file()] if within.is_dir() else []

    def _pure(self, name: str | Path) -> PurePosixPath:
        pure = PurePosixPath(str(name))
        if (self.closed or self.archives) and (pure.is_absolute() or ".." in pure.parts):
            raise ImageError("image_outside_root", f"the image {name} is not below the folder of the images")
        return pure


class _Archive:
    """An archive that is open for reading, zip or tar. Its members are known by their names without a leading `./`."""

    def __init__(self, path: str) -> None:
        # Both stay open as long as the process: opening reads the whole list of members.
        try:
            self._file = zipfile.ZipFile(path) if path.endswith(".zip") else tarfile.open(path)  # noqa: SIM115
            members = _members(self._file)
        except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error) as error:
            raise DataError(f"the archive of images {path} cannot be opened: {error}") from error
        self._members = {str(PurePosixPath(name)): name for name in members}

    def has(self, member: str) -> bool:
        return member in self._members

    @property
    def first(self) -> str | None:
        """A member's name, to compare with one that is not there."""
        return next(iter(self._members), None)

    def listing(self, folder: str) -> list[str]:
        """The members directly in a folder."""
        return self._folders.get(folder, [])

    @cached_property
    def _folders(self) -> dict[str, list[str]]:
        folders: dict[str, list[str]] = {}
        for member in self._members:
            folders.setdefault(str(PurePosixPath(member).parent), []).append(member)
        return folders

    def read(self, member: str) -> bytes:
        """Raises: KeyError, where there is no such member; ImageError, where it is too large; one of `BROKEN`."""
        name = self._members[member]
        if isinstance(self._file, zipfile.ZipFile):
            _check_size(self._file.getinfo(name).file_size, member)
            return self._file.read(name)
        info = self._file.getmember(name)
        _check_size(info.size, member)
        file = self._file.extractfile(info)
        assert file is not None  # a regular file, as all of `_members` are
        return file.read()


def _members(file: zipfile.ZipFile | tarfile.TarFile) -> list[str]:
    if isinstance(file, zipfile.ZipFile):
        return [name for name in file.namelist() if not name.endswith("/")]
    return [member.name for member in file.getmembers() if member.isfile()]


def _check_size(size: int, member: str) -> None:
    if size > MAX_BYTES:
        raise ImageError("image_too_large", f"{member} unpacks to {size:,} bytes; at most {MAX_BYTES:,} are read")


@lru_cache(maxsize=64)
def _opened(path: str, process: int) -> _Archive:
    """One handle a process: two processes that share one would move each other's place in the file."""
    return _Archive(path)
