"""Rows of JSON Lines files as stages read them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from basereward.data.readers.json_lines import decode_json
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError


def read_rows(*files: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of files, one file after the other. Paths of images become absolute: they may be written elsewhere.

    Args:
        files: JSON Lines files.

    Raises:
        DataError: a file cannot be read, or a line is not a JSON object; the message names it.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "rows.jsonl"
    >>> _ = file.write_text('{"id": "a", "images": ["a.png"]}')
    >>> [Path(row["images"][0]).is_absolute() for row in read_rows(file)]
    [True]
    """
    for name in files:
        file = Path(name)
        try:
            with file.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield _with_absolute_images(_row(line, f"{file}:{number}"), file.parent)
        except (OSError, UnicodeError) as error:
            raise DataError(f"the rows '{file}' cannot be read: {error}") from error


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = decode_json(line)
    except RowRejected as rejection:
        raise DataError(f"{where}: {rejection.detail}") from rejection
    if not isinstance(row, dict):
        raise DataError(f"{where}: the line is not a JSON object, as every row must be")
    return row


def _with_absolute_images(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    images = row.get("images")
    if not isinstance(images, Sequence) or isinstance(images, str):
        return row
    return {**row, "images": [_absolute(image, folder) for image in images]}


def _absolute(image: Any, folder: Path) -> Any:
    if isinstance(image, Mapping) and isinstance(image.get("path"), str) and not image.get("bytes"):
        return {**image, "path": _absolute(image["path"], folder)}
    # A data URI or an address is not a path.
    if not isinstance(image, str) or ":" in image or os.path.isabs(image):
        return image
    return str((folder / image).absolute())
