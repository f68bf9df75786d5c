"""Finds the images that rows refer to, in a folder or in archives, which are read without unpacking."""

from __future__ import annotations

import contextlib
import hashlib
import lzma
import os
import posixpath
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

from basereward.data.schema.group import ArchivedImage
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError
from basereward.io.limits import check_regular_file

ARCHIVES = (".zip", ".tar")
MAX_BYTES = 256 * 2**20
"""The largest image file, in bytes. An image of `open_images.MAX_PIXELS` is smaller in every common format, and a small
member of an archive may unpack to more than the memory."""
# Consecutive links in an archive after which they count as a cycle.
MAX_LINKS = 16


class ImageError(RowRejected):
    """An image cannot be used.

    The reason is `image_missing`, `image_unreadable`, `image_too_large`, `image_outside_root` or `image_aspect_ratio`.

    >>> ImageError("image_missing", "there is no file a.png").reason
    'image_missing'
    """


# Exceptions for a member that is damaged, truncated, encrypted, or compressed with an unsupported method.
BROKEN = (
    OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, RuntimeError, ValueError,
)  # fmt: skip


def read_archived(image: ArchivedImage) -> bytes:
    """Read an image inside an archive.

    Raises:
        ImageError: `image_missing`, `image_unreadable` or `image_too_large`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with zipfile.ZipFile(f"{folder}/images.zip", "w") as file:
    ...         file.writestr("a.png", b"content")
    ...     read_archived(ArchivedImage(f"{folder}/images.zip", "a.png"))
    b'content'
    """
    with _explained(image):
        return _opened(image.archive, os.getpid()).read(image.member)


def archived_digest(image: ArchivedImage, algorithm: str) -> bytes:
    """Hash the content of an image or a video inside an archive, in blocks, and once in a process.

    Args:
        image: the member.
        algorithm: its name in `hashlib`.

    Raises:
        ImageError: as `read_archived`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with zipfile.ZipFile(f"{folder}/images.zip", "w") as file:
    ...         file.writestr("a.png", b"content")
    ...     digest = archived_digest(ArchivedImage(f"{folder}/images.zip", "a.png"), "sha256")
    >>> digest == hashlib.sha256(b"content").digest()
    True
    """
    with _explained(image):
        status = os.stat(image.archive)
        return _digest(image, algorithm, (status.st_size, status.st_mtime_ns))


@contextlib.contextmanager
def _explained(image: ArchivedImage) -> Iterator[None]:
    """Turn the errors of reading a member into reasons.

    Raises:
        ImageError: `image_missing`, `image_unreadable` or `image_too_large`.
    """
    try:
        yield
    except KeyError:
        # The name of any member shows how the archive spells its paths.
        first = _opened(image.archive, os.getpid()).first
        detail = f"{image.archive} has no member {image.member}; its first is {first}"
        raise ImageError("image_missing", detail) from None
    except ImageError:
        raise
    except BROKEN as error:
        raise ImageError("image_unreadable", f"{image}: {error}") from error


# A video may be the prompt of many rows. The state of the archive is part of the key, so that a new one is read again.
@lru_cache(maxsize=2**16)
def _digest(image: ArchivedImage, algorithm: str, _state: tuple[int, int]) -> bytes:
    return _opened(image.archive, os.getpid()).digest(image.member, algorithm)


class ImageStore:
    """Resolves image paths.

    Args:
        root: the folder that relative paths start from.
        archives: zip or tar files; if given, every image is searched in these, in their order.
        closed: whether paths must be below the root. Paths in published data sets must not reach other files.
        caches: other folders that absolute paths may be in, such as the download folder of a library.

    Raises:
        DataError: an archive has an unknown suffix.

    >>> str(ImageStore("data").find("a.png"))
    'data/a.png'
    """

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        archives: Sequence[str | Path] = (),
        closed: bool = False,
        caches: Sequence[str | Path] = (),
    ) -> None:
        self.root = Path(root) if root is not None else Path()
        self.archives = [str(archive) for archive in archives]
        self.closed = closed
        self.caches = [PurePosixPath(os.path.abspath(cache)) for cache in caches]
        for archive in self.archives:
            if Path(archive).suffix not in ARCHIVES:
                raise DataError(
                    f"{archive}: unknown kind of archive; allowed: {', '.join(ARCHIVES)}. "
                    "Join parts (.zip_aa, .zip_ab) first: cat images.zip_* > images.zip"
                )

    def find(self, name: str | Path) -> Path | ArchivedImage:
        """Return the place of an image; it is not opened.

        Raises:
            ImageError: `image_outside_root`.
        """
        if not self.closed and not self.archives:
            return self.root / name
        pure = self._pure(name)
        if self.archives:
            # Data sets are split over several archives. An image in none of them is reported as missing from the first.
            holding = [archive for archive in self.archives if _opened(archive, os.getpid()).has(str(pure))]
            return ArchivedImage((holding or self.archives)[0], str(pure))
        return self.root / pure

    def listing(self, folder: str) -> list[str]:
        """List the files directly in a folder, or in the first archive that has it; empty if there is no such folder.

        Raises:
            ImageError: `image_outside_root`, or `image_unreadable` (the folder cannot be read).
        """
        pure = self._pure(folder)
        if self.archives:
            listings = (_opened(archive, os.getpid()).listing(str(pure)) for archive in self.archives)
            return next((names for names in listings if names), [])
        within = self.root / pure
        try:
            if not within.is_dir():
                return []
            return [str(pure / file.name) for file in within.iterdir() if file.is_file()]
        except OSError as error:
            # The name is too long, as of base64 in the place of a path, or the folder may not be read.
            detail = f"the folder {str(folder)[:300]} cannot be read: {error.strerror}"
            raise ImageError("image_unreadable", detail) from error

    def _pure(self, name: str | Path) -> PurePosixPath:
        """Return the path relative to the root or to an archive.

        Raises:
            ImageError: `image_outside_root`.
        """
        pure = PurePosixPath(str(name))
        if self.archives:
            return self._checked(pure, place="the archive")
        if not self.closed:
            return pure
        # Folder loaders make absolute paths of the paths in the rows. With ".." they could leave the root again.
        if pure.is_absolute() and ".." not in pure.parts:
            pure = self._relative(pure)
            if self._is_cached(pure):
                return pure
        return self._checked(pure, place=f"the folder of the images, {self.root.absolute()}")

    def _is_cached(self, path: PurePosixPath) -> bool:
        return any(path.is_relative_to(cache) for cache in self.caches)

    def _checked(self, path: PurePosixPath, *, place: str) -> PurePosixPath:
        """Return a relative path that does not leave its root.

        Raises:
            ImageError: `image_outside_root`.
        """
        # A published data set must not make the reader open other files of the machine, such as keys.
        if path.is_absolute() or ".." in path.parts:
            raise ImageError("image_outside_root", f"the image {path} is not below {place}")
        return path

    def _relative(self, path: PurePosixPath) -> PurePosixPath:
        """Make an absolute path relative to the root, with or without resolving links; else return it as it is."""
        for root in self._roots:
            if path.is_relative_to(root):
                return path.relative_to(root)
        try:
            resolved = Path(path).resolve()
        except (OSError, ValueError, RuntimeError):
            # A cycle of links, or a zero byte in the name. Opening the file reports it.
            return path
        root = self._roots[-1]
        return PurePosixPath(resolved.relative_to(root)) if resolved.is_relative_to(root) else path

    @cached_property
    def _roots(self) -> tuple[PurePosixPath, PurePosixPath]:
        """The absolute path of the root, without and with symbolic links resolved."""
        return PurePosixPath(os.path.abspath(self.root)), PurePosixPath(self.root.resolve())


class _Archive:
    """An open zip or tar archive. Its members are found by their names without a leading `./`."""

    def __init__(self, path: str) -> None:
        check_regular_file(path)
        # Archives stay open, because opening reads the whole list of members. Compressed tar files are not allowed:
        # reading a member would unpack everything before it.
        try:
            self._file = zipfile.ZipFile(path) if path.endswith(".zip") else tarfile.open(path, "r:")  # noqa: SIM115
            self._members = _members(self._file)
            # The members of a tar file share the position in it; `zipfile` has a lock of its own.
            self._reading = threading.Lock()
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, tarfile.TarError, zlib.error) as error:
            raise DataError(f"the archive of images {path} cannot be opened: {error}") from error

    def has(self, member: str) -> bool:
        return member in self._members

    @property
    def first(self) -> str | None:
        """The name of a member, as an example for error messages."""
        return next(iter(self._members), None)

    def listing(self, folder: str) -> list[str]:
        """List the members directly in a folder."""
        return self._folders.get(folder, [])

    @cached_property
    def _folders(self) -> dict[str, list[str]]:
        folders: dict[str, list[str]] = {}
        for member in self._members:
            folders.setdefault(str(PurePosixPath(member).parent), []).append(member)
        return folders

    def read(self, member: str) -> bytes:
        """Read a member.

        Raises:
            KeyError: there is no such member.
            ImageError: the member is too large, or a link without a target.
            BROKEN: the member cannot be read.
        """
        with self._open(member) as file:
            return file.read()

    def digest(self, member: str, algorithm: str) -> bytes:
        """Hash a member in blocks; errors are those of `read`."""
        with self._open(member) as file:
            return hashlib.file_digest(file, algorithm).digest()  # type: ignore[arg-type]  # has `readinto`

    @contextlib.contextmanager
    def _open(self, member: str) -> Iterator[IO[bytes]]:
        info = self._members[member]
        if isinstance(self._file, zipfile.ZipFile):
            assert isinstance(info, zipfile.ZipInfo)
            # Checked before reading, because a small file can unpack to more than the memory.
            _check_size(info.file_size, member)
            with self._file.open(info) as file:
                yield file
            return
        assert isinstance(info, tarfile.TarInfo)
        info = self._target(info, member)
        _check_size(info.size, member)
        content = self._file.extractfile(info)
        # `extractfile` returns None for folders and devices, and the target of links is a regular file.
        assert content is not None
        with self._reading:
            yield content

    def _target(self, info: tarfile.TarInfo, member: str) -> tarfile.TarInfo:
        """Follow links to a regular file. GNU tar stores the second name of a file as a hard link to the first."""
        for _ in range(MAX_LINKS):
            if not info.islnk() and not info.issym():
                return info
            # A symbolic link is relative to its own folder, a hard link to the root of the archive.
            start = PurePosixPath(info.name).parent if info.issym() else PurePosixPath()
            name = posixpath.normpath(str(start / info.linkname))
            target = self._members.get(name)
            if not isinstance(target, tarfile.TarInfo):
                raise ImageError("image_missing", f"{member} is a link to {info.linkname}, which the archive lacks")
            info = target
        raise ImageError("image_unreadable", f"{member} is part of a cycle of links")


def _members(file: zipfile.ZipFile | tarfile.TarFile) -> dict[str, zipfile.ZipInfo | tarfile.TarInfo]:
    """Index files and links by name.

    Of several members with one name the last one counts, as for tar and unzip. If it is a folder, a device or a pipe,
    there is no file with that name.
    """
    members: dict[str, zipfile.ZipInfo | tarfile.TarInfo] = {}
    if isinstance(file, zipfile.ZipFile):
        return {str(PurePosixPath(info.filename)): info for info in file.infolist() if not info.is_dir()}
    for member in file.getmembers():
        name = str(PurePosixPath(member.name))
        if member.isfile() or member.islnk() or member.issym():
            members[name] = member
        else:
            members.pop(name, None)
    return members


def _check_size(size: int, member: str) -> None:
    if size > MAX_BYTES:
        raise ImageError("image_too_large", f"{member} unpacks to {size:,} bytes; at most {MAX_BYTES:,} are read")


# Bounded, because each entry holds an open file and the list of its members.
@lru_cache(maxsize=64)
def _opened(path: str, process: int) -> _Archive:
    """Open an archive once per process: processes that share a handle would move each other's file position."""
    return _Archive(path)
