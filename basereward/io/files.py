"""Atomic writes of files, files that the project keeps for itself, lists of files, strict JSON, and messages for errors
of the disk."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from basereward.errors import DataError, RunError
from basereward.io.limits import kind_of
from basereward.io.processes import partial_writes, temporary_name

log = logging.getLogger(__name__)

# Grouped by what a user can do about them: make room, change rights, move something away, or ask an administrator.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
TAKEN = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
OTHER = {errno.EIO, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EBUSY}
DISK = {*FULL, *FORBIDDEN, *TAKEN, *OTHER}
"""Errors that come from the disk and not from a bug, by their numbers in `errno`."""


def cache_folder() -> Path:
    """The folder of results that any run can compute again: `$BASEREWARD_CACHE`, by default `~/.cache/basereward`.

    >>> from unittest.mock import patch
    >>> with patch.dict(os.environ, BASEREWARD_CACHE="/data/cache"):
    ...     cache_folder().as_posix()
    '/data/cache'
    """
    return Path(os.environ.get("BASEREWARD_CACHE") or Path.home() / ".cache" / "basereward")


def write_atomic(path: Path | str, data: bytes | str, *, durable: bool = True) -> None:
    """Writes a file so that a reader, or a crash at any moment, finds all of the old content or all of the new.

    Args:
        path: the file, in an existing folder.
        data: its new content; text is written as UTF-8.
        durable: see `atomic_path`.

    Raises:
        OSError: the file cannot be written. The old file is unchanged, and no temporary file is left.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomic(Path(folder, "status.json"), "{}")
    ...     [path.name for path in Path(folder).iterdir()]
    ['status.json']
    """
    with atomic_file(path, durable=durable) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def atomic_file(path: Path | str, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Opens a new file that takes the name `path` when the block ends without an error; for content in pieces.

    Args:
        path: the file, in an existing folder.
        durable: see `atomic_path`.

    Raises:
        OSError: as of `write_atomic`.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp(), "rows.jsonl")
    >>> with atomic_file(target) as file:
    ...     _ = file.write(b"{}")
    ...     target.exists()
    False
    >>> target.read_bytes()
    b'{}'
    """
    # Not mkstemp: only the owner can read its files, whatever the umask is.
    with atomic_path(path, durable=durable) as temporary, temporary.open("xb") as file:
        yield file


@contextlib.contextmanager
def atomic_path(path: Path | str, *, durable: bool = True) -> Iterator[Path]:
    """Gives the name of a temporary file, which takes the name `path` when the block ends without an error.

    For libraries that open the file themselves, such as safetensors. The block must create the file.

    Args:
        path: the file, in an existing folder.
        durable: whether the file is on the disk when the block has ended. False saves the wait for the disk; after a
            power failure the new file may be empty or damaged, so that its readers have to verify it.

    Raises:
        OSError: as of `write_atomic`.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp(), "model.safetensors")
    >>> with atomic_path(target) as temporary:
    ...     _ = temporary.write_bytes(b"weights")
    >>> target.read_bytes()
    b'weights'
    """
    path = Path(path)
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "a NUL character is in no name of a file; give another path", repr(str(path))[1:-1])
    if is_special(path):
        reason = "it is a device or a pipe, which is never replaced by a file; give another path"
        raise OSError(errno.EINVAL, reason, str(path))
    # In the same folder, because a rename across file systems is not atomic. Several processes may write one file.
    temporary = path.with_name(temporary_name(f"{path.name}.{secrets.token_hex(4)}", ".tmp"))
    _remove_partial_writes(path)
    written = False
    try:
        yield temporary
        written = True
        if durable:
            # The content before the name: after a power failure the new name must not lead to an empty file.
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        # A failed write has no file name, and the user does not know the temporary one. An error that the block got
        # elsewhere, as when it read its input, keeps its own.
        if isinstance(error, OSError) and (
            written or error.errno in FULL or error.filename in (temporary, str(temporary))
        ):
            error.filename = str(path)
        raise
    if durable:
        _sync_folder(path.parent)


def _remove_partial_writes(path: Path) -> None:
    """Removes what killed writes of a file have left beside it; nobody else would know what the files are."""
    for leftover in partial_writes(path.parent.absolute()):
        if leftover.name.startswith(f".{path.name}."):
            with contextlib.suppress(OSError):
                leftover.unlink()


def is_special(path: Path | str) -> bool:
    """Whether a path is a device, a pipe, a socket, or a link to an open file of a process, as /dev/stdout is.

    A file that is renamed to such a path would replace it for every program of the machine.

    >>> is_special("/dev/null"), is_special("/"), is_special("/not/there")
    (True, False, False)
    """
    try:
        if os.path.islink(path) and os.readlink(path).startswith("/proc/"):
            return True
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def set_aside(path: Path, *, is_folder: bool = False) -> Path | None:
    """Renames what is in the place of a file of ours and is no regular file; a warning names it.

    A pipe, a device or a folder there must not stop a run: to open a pipe waits for its other end, which may never
    come. It is renamed and not deleted, because it may be of use to somebody.

    Args:
        path: where the file is, or will be written. Symbolic links are followed.
        is_folder: whether a folder belongs there.

    Returns:
        The new name; None when nothing is there, or what belongs there.

    Raises:
        OSError: it cannot be renamed.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "status.json"
    >>> os.mkfifo(file)
    >>> set_aside(file).name, file.exists()
    ('status.json.aside-...', False)
    >>> set_aside(file) is None
    True
    """
    if not path.exists() or (path.is_dir() if is_folder else path.is_file()):
        return None
    kind = kind_of(path)
    target = path.with_name(f"{path.name}.aside-{secrets.token_hex(2)}")
    try:
        path.rename(target)
    except FileNotFoundError:
        # Another process was faster.
        return None
    wanted = "a folder" if is_folder else "a file"
    log.warning("%s is %s, and %s of the run belongs there. It was renamed to %s.", path, kind, wanted, target)
    return target


def write_state(path: Path, data: bytes | str, *, durable: bool = True) -> None:
    """Writes a file of ours as `write_atomic` does, after setting aside what is no regular file in its place.

    Raises:
        OSError: as of `write_atomic`.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "result.json"
    >>> os.mkfifo(file)
    >>> write_state(file, "{}")
    >>> file.read_text()
    '{}'
    """
    set_aside(path)
    write_atomic(path, data, durable=durable)


def state_folder(path: Path) -> Path:
    """Makes a folder of ours with its parents, after setting aside what is in its place.

    Returns:
        The folder.

    Raises:
        OSError: it cannot be made.

    >>> import tempfile
    >>> state_folder(Path(tempfile.mkdtemp()) / "outbox").is_dir()
    True
    """
    set_aside(path, is_folder=True)
    path.mkdir(parents=True, exist_ok=True)
    return path


def apply_umask(path: Path | str) -> None:
    """Gives a file the permissions that `open` would have given it.

    Libraries that write through `mkstemp` leave files that only their owner can read.
    """
    path = Path(path)
    # The umask cannot be read without setting it for all threads, so the permissions are those of a new file.
    probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}.mode")
    probe.touch(exist_ok=False)
    try:
        path.chmod(probe.stat().st_mode & 0o777)
    finally:
        probe.unlink()


def json_text(value: Any, *, indent: int | None = None) -> str:
    """A value as strict JSON, in which NaN and infinities, which JSON does not have, are null.

    >>> json_text({"accuracy": float("nan"), "scores": (1.0, float("-inf"))})
    '{"accuracy": null, "scores": [1.0, null]}'
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sync_folder(folder: Path) -> None:
    """Writes the new name to the disk. Some network file systems refuse this, and do not need it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def disk_faults() -> Iterator[None]:
    """Turns an OSError of the disk (full, broken, read-only, a file in the place of a folder) into a RunError.

    Raises:
        RunError: the message has the file, the reason, the free space where that matters, and what to do.

    >>> with disk_faults():
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    basereward.errors.RunError: No space left on device. Make room where ...
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise RunError(describe_fault(error)) from error


def describe_fault(error: OSError) -> str:
    """The message for an OSError: the file, the reason, and what to do.

    >>> describe_fault(NotADirectoryError(20, "Not a directory", "/dev/null/runs"))
    "'/dev/null/runs' cannot be used: Not a directory; '/dev/null' is no folder. Move it away, or give another path."
    >>> describe_fault(OSError(28, "No space left on device"))
    'No space left on device. Make room where runs, cache and temporary files are, and run the command again.'
    """
    if error.errno is None or not error.strerror:
        return str(error)
    if not error.filename and error.errno in FULL:
        return f"{error.strerror}. Make room where runs, cache and temporary files are, and run the command again."
    if not error.filename:
        return f"{error.strerror} (error {error.errno} of the operating system)"
    path = _absolute(Path(os.fsdecode(error.filename)))
    problem = f"'{path}' cannot be used: {error.strerror}"
    if error.errno in FULL:
        return f"{problem}; {free_space(path)}. Make room, and run the command again."
    if error.errno in FORBIDDEN:
        return f"{problem}. Allow this user to write there, or give another path, and run the command again."
    if error.errno in TAKEN:
        obstacle = _first_non_folder(path)
        reason = f"; '{obstacle}' is no folder" if obstacle else ""
        return f"{problem}{reason}. Move it away, or give another path."
    return f"{problem}."


def _first_non_folder(path: Path) -> Path | None:
    """The path or the first of its parents that exists and is not a folder."""
    for place in (path, *path.parents):
        if os.path.lexists(place) and not place.is_dir():
            return place
    return None


def _absolute(path: Path) -> Path:
    # `absolute` fails when the working folder has been deleted.
    with contextlib.suppress(FileNotFoundError):
        return path.absolute()
    return path


def files_below(folder: Path | str) -> list[Path]:
    """All regular files below a folder, sorted; also those in folders that are links, as in the cache of the hub.

    `Path.rglob` does not enter such links, so that a hash over its files would be that of a part.

    Raises:
        DataError: a link leads to a folder that contains it, so that there would be no end.
        OSError: a folder cannot be read.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "a").mkdir()
    >>> (folder / "a" / "file").touch()
    >>> (folder / "b").symlink_to("a")
    >>> [file.relative_to(folder).as_posix() for file in files_below(folder)]
    ['a/file', 'b/file']
    """
    return sorted(_files(Path(folder), ()))


def _files(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """Files below a folder; `above` are the folders that contain it, without links."""
    real = Path(os.path.realpath(folder))
    if real in above:
        raise DataError(f"the folder {folder} is a link to {real}, which contains it; remove the link")
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        if entry.is_dir():
            yield from _files(folder / entry.name, (*above, real))
        elif entry.is_file():
            yield folder / entry.name


def free_space(path: Path) -> str:
    """How much space is free on the disk of a path that need not exist, for a message.

    >>> free_space(Path("/"))
    '... GiB are free there'
    """
    place = _absolute(path)
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    return f"{free / 2**30:.2f} GiB are free there" if free >= 2**30 else f"{free / 2**20:.2f} MiB are free there"
