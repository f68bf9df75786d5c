"""Files that are whole or not there, and what is said when a disk will not take them."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from basereward.errors import RunError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
TAKEN = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
OTHER = {errno.EIO, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EBUSY}
DISK = {*FULL, *FORBIDDEN, *TAKEN, *OTHER}
"""What keeps a file from being read or written and is no slip of ours."""


def write_atomic(path: Path | str, data: bytes | str) -> None:
    """Write a file so that a reader, or a crash at any moment, finds all of the old content or all of the new.

    The data go into a file beside it, to the disk, and then take the name. Text is UTF-8. The folder must exist.

    Raises:
        OSError: when the disk is full, say, or the path is a device or a pipe. The old file is as it was, and nothing
            else is left behind.
    """
    path = Path(path)
    if is_special(path):
        reason = "it is a device or a pipe, and no file takes its place; name another one"
        raise OSError(errno.EINVAL, reason, str(path))
    content = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        # Not mkstemp: its files are readable by the owner alone, whatever the umask says.
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)  # a failed write does not know its file, and nobody knows the temporary one
        raise
    _sync_folder(path.parent)


def is_special(path: Path | str) -> bool:
    """Whether a path is a device, a pipe or a socket, or a link to what a process has open, as /dev/stdout is. A file
    that is renamed to it would take its place for every program of the machine.

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


def apply_umask(path: Path | str) -> None:
    """Give a file the permissions that `open` would have given it.

    Libraries that write through `mkstemp` leave files that their owner alone can read. The umask cannot be read without
    being set for all threads, so that the permissions of a new file are taken.
    """
    path = Path(path)
    probe = path.with_name(f".{path.name}.{secrets.token_hex(4)}.mode")
    probe.touch(exist_ok=False)
    try:
        path.chmod(probe.stat().st_mode & 0o777)
    finally:
        probe.unlink()


def json_text(value: Any, *, indent: int | None = None) -> str:
    """A value as strict JSON. JSON has no NaN and no infinity: such a number becomes null.

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
    """Put the new name on the disk too; some network file systems cannot, and do not need it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def disk_faults() -> Iterator[None]:
    """Turns a disk that is full, broken or not ours to write on, or a file in the place of a folder, into an error.

    Raises:
        RunError: which file, why, how much is free where that matters, and what to do.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise RunError(describe_fault(error)) from error


def describe_fault(error: OSError) -> str:
    """A sentence about what the machine refused: the file, the reason, and what to do.

    >>> describe_fault(NotADirectoryError(20, "Not a directory", "/dev/null/runs"))
    "'/dev/null/runs' cannot be used: Not a directory; '/dev/null' is no folder. Move it away, or name another place."
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
    told = f"'{path}' cannot be used: {error.strerror}"
    if error.errno in FULL:
        return f"{told}; {free_space(path)}. Make room, and run the command again."
    if error.errno in FORBIDDEN:
        return f"{told}. Give the right to write there, or name another place, and run the command again."
    if error.errno in TAKEN:
        taken = next((each for each in (path, *path.parents) if os.path.lexists(each) and not each.is_dir()), None)
        return f"{told}{f'; {str(taken)!r} is no folder' if taken else ''}. Move it away, or name another place."
    return f"{told}."


def _absolute(path: Path) -> Path:
    with contextlib.suppress(FileNotFoundError):  # of a working folder that has been deleted
        return path.absolute()
    return path


def free_space(path: Path) -> str:
    """How much room there is where a file should go, for a message."""
    path = _absolute(path)
    place = next((each for each in (path, *path.parents) if each.exists()), Path("/"))
    free = shutil.disk_usage(place).free
    return f"{free / 2**30:.2f} GiB are free there" if free >= 2**30 else f"{free / 2**20:.2f} MiB are free there"
