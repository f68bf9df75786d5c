"""Reads files from outside with a size limit, so that a wrong or hostile file is an error and does not fill memory."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from basereward.errors import BaseRewardError, DataError

MIB = 2**20
JSON_DEPTH = 100
"""Levels of nesting that `parse_json` accepts; no row needs ten. Python's own parser fails near 1,000."""


def check_regular_file(path: Path | str, *, error: type[BaseRewardError] = DataError) -> int:
    """The size of a regular file in bytes.

    A FIFO, a device or a socket may have no end, so it is an error before it is opened.

    Args:
        path: a file from outside; symbolic links are followed.
        error: the type of error to raise.

    Raises:
        BaseRewardError: of type `error`; the file does not exist, or is not a regular file.

    >>> check_regular_file("/dev/zero")
    Traceback (most recent call last):
        ...
    basereward.errors.DataError: '/dev/zero' is a character device; give a regular file
    """
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as cause:
        raise error(f"'{path}' cannot be read: {getattr(cause, 'strerror', None) or cause}") from cause
    if not stat.S_ISREG(status.st_mode):
        raise error(f"'{path}' is {kind_of(path)}; give a regular file")
    return status.st_size


def pipe_fault(path: Path | str) -> str | None:
    """Why rows cannot be read from a path that exists and is no file and no folder, and what to do; None for any other.

    >>> pipe_fault("/dev/null")
    "'/dev/null' is a character device. Rows are read several times, and a pipe or a device gives them once: ..."
    >>> pipe_fault("/") is None, pipe_fault("not/there") is None
    (True, True)
    """
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return None
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    return (
        f"'{path}' is {kind_of(path)}. Rows are read several times, and a pipe or a device gives them once: write them "
        "to a file first (cat PIPE > rows.jsonl), and give that file"
    )


def kind_of(path: Path | str) -> str:
    """What a path is that exists and is no regular file, in words.

    >>> kind_of("/"), kind_of("/dev/null")
    ('a folder', 'a character device')
    """
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe (FIFO)",
        stat.S_IFCHR: "a character device",
        stat.S_IFBLK: "a block device",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(Path(path).stat().st_mode), "no regular file")


def read_bytes(path: Path | str, *, limit: int, error: type[BaseRewardError] = DataError) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Args:
        path: a file from outside.
        limit: in bytes.
        error: the type of error to raise.

    Raises:
        BaseRewardError: of type `error`; the file cannot be read, is no regular file, or is larger than `limit`.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = Path(file.name).write_text("{}")
    ...     read_bytes(file.name, limit=2)
    b'{}'
    """
    size = check_regular_file(path, error=error)
    if size <= limit:
        try:
            with Path(path).open("rb") as file:
                # One more byte shows that the file grew since its size was read.
                content = file.read(limit + 1)
        except OSError as cause:
            raise error(f"'{path}' cannot be read: {cause.strerror}") from cause
        size = len(content)
    if size > limit:
        raise error(f"'{path}' has {size:,} bytes; at most {limit:,} are read")
    return content


def read_text(path: Path | str, *, limit: int = 16 * MIB, error: type[BaseRewardError] = DataError) -> str:
    """The content of a regular UTF-8 file of at most `limit` bytes; see `read_bytes`.

    Raises:
        BaseRewardError: of type `error`; as `read_bytes`, or the file is not UTF-8.

    >>> import codecs, tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = Path(file.name).write_bytes(codecs.BOM_UTF8 + b"name: a")
    ...     read_text(file.name)
    'name: a'
    """
    try:
        # Editors on Windows put a byte order mark before the text, which `utf-8-sig` drops.
        return read_bytes(path, limit=limit, error=error).decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise error(f"'{path}' is not UTF-8: {cause}") from cause


def read_json(path: Path | str, *, limit: int = 16 * MIB, error: type[BaseRewardError] = DataError) -> Any:
    """The value of a JSON file of at most `limit` bytes; see `read_bytes` and `parse_json`.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = Path(file.name).write_text("[1, 2]")
    ...     read_json(file.name)
    [1, 2]
    """
    return parse_json(read_text(path, limit=limit, error=error), where=f"'{path}'", error=error)


def read_json_object(
    path: Path | str, *, limit: int = 16 * MIB, error: type[BaseRewardError] = DataError
) -> dict[str, Any]:
    """The object of a JSON file of at most `limit` bytes; any other JSON value is an error.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = Path(file.name).write_text("[1, 2]")
    ...     read_json_object(file.name)
    Traceback (most recent call last):
    basereward.errors.DataError: '...' holds a JSON array; a JSON object is needed
    """
    value = read_json(path, limit=limit, error=error)
    if not isinstance(value, dict):
        raise error(f"'{path}' holds a JSON {_json_kind(value)}; a JSON object is needed")
    return value


def parse_json(text: str, *, where: str, error: type[BaseRewardError] = DataError) -> Any:
    """The value of a JSON text with at most `JSON_DEPTH` levels.

    Args:
        text: from outside.
        where: where the text comes from, for the message.
        error: the type of error to raise.

    Raises:
        BaseRewardError: of type `error`; the text is not JSON, or nested deeper.

    >>> parse_json("[" * 200 + "]" * 200, where="the row")
    Traceback (most recent call last):
        ...
    basereward.errors.DataError: the row is JSON nested deeper than 100 levels
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise error(f"{where} is JSON nested deeper than {JSON_DEPTH} levels") from None
    except ValueError as cause:
        raise error(f"{where} is not JSON: {cause}") from cause
    if nested_deeper(value, JSON_DEPTH):
        raise error(f"{where} is JSON nested deeper than {JSON_DEPTH} levels")
    return value


def check_format(
    content: Mapping[str, Any], *, newest: int, where: str, error: type[BaseRewardError] = DataError
) -> None:
    """Checks the number under `format` in a file of ours.

    Args:
        content: of the file.
        newest: the format that this version writes and reads.
        where: the file, for the message.
        error: the type of error to raise.

    Raises:
        BaseRewardError: of type `error`; a later version of this package wrote the file, or the number is missing or is
            none that any version has written.

    >>> check_format({"format": 1}, newest=1, where="'card.json'")
    >>> check_format({"format": "1"}, newest=1, where="'card.json'")
    Traceback (most recent call last):
    basereward.errors.DataError: 'card.json' is damaged: its `format` is "1"; the number 1 is needed. Copy ...
    """
    value = content.get("format")
    # `True` is an `int` in Python.
    number = value if isinstance(value, int) and not isinstance(value, bool) else None
    if number == newest:
        return
    if number is not None and number > newest:
        raise error(f"{where} has format {str(value)[:80]}; this version reads format {newest}. Update the package.")
    given = f"is {json.dumps(value)[:80]}" if "format" in content else "is missing"
    raise error(f"{where} is damaged: its `format` {given}; the number {newest} is needed. Copy the folder again.")


def nested_deeper(value: Any, limit: int) -> bool:
    """Whether lists and mappings are nested deeper than `limit` levels.

    >>> nested_deeper([[1]], 2), nested_deeper([[1]], 1)
    (False, True)
    """
    # Level by level, because recursion into a deep value is what the limit prevents.
    level = [value]
    for _ in range(limit + 1):
        next_level: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                next_level.extend(item.values())
            elif isinstance(item, list):
                next_level.extend(item)
        if not next_level:
            return False
        level = next_level
    return True


def _json_kind(value: Any) -> str:
    if value is None:
        return "null"
    return {list: "array", str: "string", bool: "boolean"}.get(type(value), "number")
