"""Rows of JSON Lines files as stages read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from basereward.data.images.image_store import ImageStore
from basereward.data.readers.json_lines import decode_json
from basereward.data.schema.columns import ALIASES
from basereward.data.schema.image_references import KEYS as IMAGE_REFERENCE_KEYS
from basereward.data.schema.image_references import find_image
from basereward.data.schema.messages import IMAGE_KEYS, NAMED_IMAGE, PART_KEYS
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.responses.read_responses import IMAGE_COLUMNS
from basereward.data.videos.references import KEYS as VIDEO_REFERENCE_KEYS
from basereward.errors import DataError

MEDIA_COLUMNS = frozenset({*IMAGE_KEYS, *IMAGE_COLUMNS, "videos", "video"})
"""Columns of rows, and keys of messages, whose cells are images or videos."""
REFERENCE_KEYS = frozenset({*IMAGE_REFERENCE_KEYS, *VIDEO_REFERENCE_KEYS})
"""Keys of an object that stands for an image or a video."""


def read_rows(*files: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of files, one file after the other.

    Paths of images and videos become absolute, since the rows may be written elsewhere: in the columns of images and
    videos, in parts of messages, and as `<img>name</img>` in a text where there is such a file.

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
                        yield _with_absolute_media(_row(line, f"{file}:{number}"), file.parent)
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


def _with_absolute_media(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    images = ImageStore(folder.absolute())
    # Beside a column of images, one with another name of it is not read and may be about something else.
    aliases = () if any(row.get(key) is not None for key in IMAGE_KEYS) else ALIASES["images"]
    absolute: dict[str, Any] = {}
    for name, cell in row.items():
        is_media = name in MEDIA_COLUMNS or name in aliases
        absolute[name] = _absolute(cell, images) if is_media else _absolute_in_text(cell, images)
    return absolute


def _absolute(reference: Any, images: ImageStore) -> Any:
    """An image or a video with absolute paths; a list of them, or frames, likewise."""
    if isinstance(reference, list):
        return [_absolute(inner, images) for inner in reference]
    if isinstance(reference, Mapping):
        # Beside its content, a path is only a name.
        keys = REFERENCE_KEYS if not reference.get("bytes") else ()
        return {key: _absolute(value, images) if key in keys else value for key, value in reference.items()}
    if not isinstance(reference, str):
        return reference
    try:
        place = find_image(reference, place=0, images=images)
    except RowRejected:
        # An address, or a broken reference, which the reader of the row reports.
        return reference
    return str(place) if isinstance(place, Path) else reference


def _absolute_in_text(value: Any, images: ImageStore) -> Any:
    """A text, messages or their parts, with absolute paths of the images and videos in them."""
    if isinstance(value, str):
        return NAMED_IMAGE.sub(lambda match: _absolute_mark(match[0], match[1].strip(), images), value)
    if isinstance(value, list):
        return [_absolute_in_text(inner, images) for inner in value]
    if not isinstance(value, Mapping):
        return value
    part_keys = PART_KEYS.get(str(value.get("type")), ())
    absolute: dict[Any, Any] = {}
    for key, inner in value.items():
        is_media = key in MEDIA_COLUMNS or (key in part_keys and key not in ("text", "base64"))
        absolute[key] = _absolute(inner, images) if is_media else _absolute_in_text(inner, images)
    return absolute


def _absolute_mark(mark: str, name: str, images: ImageStore) -> str:
    place = _absolute(name, images)
    # Without such a file it may be a text about HTML.
    return f"<img>{place}</img>" if Path(place).is_file() else mark
