"""Writes rows of any known format in the general form, one JSON object a line, with their images as paths."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL.Image

from basereward.data.encoding.chat import messages
from basereward.data.images.open_images import read_image
from basereward.data.open_rows import Data, open_images, open_table
from basereward.data.schema.group import (
    SPLITS,
    Group,
    Image,
    Preference,
    RejectedRow,
    Turn,
    Video,
    rank_preferences,
    split_visuals,
)
from basereward.data.schema.image_marks import has_numbered_mark
from basereward.data.schema.messages import NAMED_IMAGE, PLACE
from basereward.data.schema.prompts import VIDEO_MARK
from basereward.data.schema.rejections import RowRejected, write_rejections
from basereward.data.schema.rows import RowFormat
from basereward.data.source_files import check_source_outputs
from basereward.data.sources import Source
from basereward.data.sources._partition import Partition
from basereward.data.summary import describe_reading, first_shown
from basereward.errors import DataError
from basereward.io.files import atomic_file, json_text
from basereward.io.outputs import check_folder_of
from basereward.io.progress import track
from basereward.recipe import make
from basereward.recipe.fragment import load_source
from basereward.recipe.schema import Node


def convert(data: Data, out: str | os.PathLike[str], *, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Write rows in the general form, which every command reads and which loses nothing that is read.

    Images that are files stay where they are; their paths are relative to the folder of `out` if they are below it.
    Other images (bytes, data URIs, members of archives) are written into a folder beside it, unchanged and each once.

    Args:
        data: a source's name, a file, a folder, a pattern, a hub id, or rows in memory.
        out: the JSON Lines file, which is written atomically.
        overrides: `key=value` for arguments of the source, such as `columns.prompt=question`; not for rows in memory.

    Returns:
        `out`; `rows`, the number of rows written; `images`, the folder of the images that were written, or None;
        `lost`, the numbers of rejected rows by reason; `listed_in`, the file that lists them, or None; and `reading`,
        as `describe_reading` gives it. Columns that are not read, which it lists, are not in the output.

    Raises:
        BaseRewardError: the rows cannot be opened, none can be used, or an output would overwrite an input.

    >>> from tempfile import TemporaryDirectory
    >>> row = {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}
    >>> with TemporaryDirectory() as folder:
    ...     facts = convert([row | {"rejected_response": "5"}], Path(folder) / "rows.jsonl")
    ...     print(facts["rows"], (Path(folder) / "rows.jsonl").read_text().strip())
    1 {"id": "rows:0", "prompt": [{"role": "user", "content": "2 + 2?"}], "responses": ["4", "5"], "ranking": [0, 1]}
    """
    target = _target(out)
    source, node = _open_source(data, overrides)
    listed_in = target.with_name(f"{target.stem}.lost.jsonl")
    writer = RowWriter(target.parent, target.with_name(f"{target.stem}.images"))
    groups = list(_groups(source))
    rejected = list(_rejected(source))
    if not groups:
        raise DataError(f"no row can be converted; the first fault: {rejected[0].detail if rejected else 'no rows'}")
    given = str(data) if isinstance(data, str | os.PathLike) else ""
    check_source_outputs({"--out": target, "the list of lost rows": listed_in}, given, node, _read(groups))
    written = 0
    with atomic_file(target) as file:
        for group in track(_read(groups), "converting", total=sum(map(len, groups))):
            try:
                row = writer.row(group)
            except RowRejected as rejection:
                rejected.append(RejectedRow(source.name, "train", group.id, rejection.reason, rejection.detail))
                continue
            # Half of a surrogate pair becomes its escape, which is valid JSON.
            file.write((json_text(row) + "\n").encode("utf-8", "backslashreplace"))
            written += 1
    if rejected:
        write_rejections(listed_in, rejected)
    return {
        "out": str(target),
        "rows": written,
        "images": str(writer.images) if writer.names else None,
        "lost": dict(Counter(row.reason for row in rejected)),
        "listed_in": str(listed_in) if rejected else None,
        "reading": describe_reading(source, first_shown(groups)),
    }


def _target(out: str | os.PathLike[str]) -> Path:
    """The path of the output.

    Raises:
        DataError: its folder does not exist.
    """
    target = Path(out)
    check_folder_of(target, what="the rows")
    return target


def _open_source(data: Data, overrides: Iterable[str]) -> tuple[Source, Node]:
    """The source of rows, and its arguments; those of rows in memory are empty."""
    if isinstance(data, str | os.PathLike):
        name, node = load_source(str(data), overrides=overrides)
        return make(node, "sources", name), node
    if list(overrides):
        raise DataError("overrides are for arguments of a source; rows in memory have none: rename their columns")
    row_format = RowFormat(images=open_images(data), of_table=True)
    source = Partition(
        "rows", tables={"train": open_table(data)}, split_fractions={"val": 0.0, "test": 0.0}, row_format=row_format
    )
    return source, {}


def _groups(source: Source) -> Iterator[Sequence[Group]]:
    for split in SPLITS:
        groups = source.groups(split)
        if len(groups):
            yield groups


def _read(groups: Iterable[Sequence[Group]]) -> Iterator[Group]:
    for members in groups:
        yield from members


def _rejected(source: Source) -> Iterator[RejectedRow]:
    for split in SPLITS:
        yield from source.rejected(split)


@dataclass
class RowWriter:
    """Makes rows of groups, and writes their images.

    Attributes:
        folder: the folder of the rows, from which paths start.
        images: the folder of the images that are written; its parent exists.
        names: the names of the images written so far.

    >>> writer = RowWriter(Path("rows"), Path("rows/images"))
    >>> writer.row(Group("a", "s", (), ("4", "5"), (Preference(1, 0),)))["ranking"]
    [1, 0]
    """

    folder: Path
    images: Path
    names: set[str] = field(default_factory=set)

    def row(self, group: Group) -> dict[str, Any]:
        """Return a row with all that the group has.

        Raises:
            RowRejected: an image cannot be read.
        """
        row: dict[str, Any] = {"id": group.id, "prompt": [_message(turn) for turn in group.prompt]}
        row |= self._responses(group)
        row |= _preferences(group.preferences, num_responses=len(group.responses))
        images, videos = split_visuals(group.images)
        optional: dict[str, list[Any]] = {
            "images": [self._image(image) for image in images],
            "videos": [self._video(video) for video in videos],
            "ratings": list(group.ratings),
            "critiques": list(group.critiques),
            "reasonings": [[item.first, item.second, item.text] for item in group.reasonings],
        }
        return row | {name: values for name, values in optional.items() if values}

    def _responses(self, group: Group) -> dict[str, Any]:
        """Return the cells of the responses, and of their images if there are any."""
        if not group.response_images:
            return {"responses": [_response(text) for text in group.responses]}
        responses = [group.response_parts(index) for index in range(len(group.responses))]
        return {
            "responses": [[_message(Turn("assistant", parts))] for parts in responses],
            "response_images": [[self._image(item.image) for item in placed] for placed in group.response_images],
        }

    def _image(self, image: Image) -> str:
        """Return the path of an image, which is written if it is no file yet."""
        if isinstance(image, str | Path):
            path = Path(image).absolute()
            images = self.images.absolute()
            below = path.is_relative_to(self.folder.absolute()) or Path(os.path.normpath(path)).is_relative_to(images)
            return os.path.relpath(path, self.folder.absolute()) if below else str(path)
        content = read_image(image)
        if isinstance(content, PIL.Image.Image):
            buffer = io.BytesIO()
            content.save(buffer, "PNG")
            content = buffer.getvalue()
        name = f"{hashlib.sha256(content).hexdigest()[:24]}{_suffix(content)}"
        if name not in self.names:
            self.images.mkdir(exist_ok=True)
            with atomic_file(self.images / name) as file:
                file.write(content)
            self.names.add(name)
        return os.path.relpath(self.images / name, self.folder)

    def _video(self, video: Video) -> dict[str, Any] | str:
        """Return a video as it stands in a row: the path of a file, or the frames."""
        if video.file is not None:
            return self._image(video.file)
        frames = {"frames": [self._image(frame) for frame in video.frames]}
        return frames if video.fps is None else {**frames, "fps": video.fps}


# The first bytes of image and video files -> their suffix.
SIGNATURES = {
    b"\x89PNG": ".png",
    b"\xff\xd8": ".jpg",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*": ".tif",
    b"MM": ".tif",
    b"\x1a\x45\xdf\xa3": ".webm",
    b"FLV": ".flv",
    b"\x00\x00\x01\xba": ".mpg",
}


def _suffix(content: bytes) -> str:
    """Return the suffix of an image file by its first bytes; the pixels are not decoded."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ".webp"
    if content[4:8] == b"ftyp":
        return ".mp4"
    return next((suffix for start, suffix in SIGNATURES.items() if content.startswith(start)), ".img")


def _message(turn: Turn) -> dict[str, Any]:
    """Return a turn as a message, with parts where a text alone would be read in another way."""
    texts = [part.text for part in turn.parts]
    plain = "" if not texts else texts[0]
    if len(texts) <= 1 and plain is not None and not _has_mark(plain):
        return {"role": turn.role, "content": plain}
    return messages([turn], in_parts=True)[0]


def _has_mark(text: str) -> bool:
    """Whether a text has what stands for an image or a video in a string."""
    return PLACE in text or VIDEO_MARK in text or NAMED_IMAGE.search(text) is not None or has_numbered_mark(text)


def _response(text: str) -> object:
    """Return a response as text, or as a message if the text looks like JSON, which a reader of rows would parse."""
    if text.lstrip()[:1] in ("[", "{"):
        return [{"role": "assistant", "content": text}]
    return text


def _preferences(preferences: Sequence[Preference], *, num_responses: int) -> dict[str, Any]:
    """Return preferences as `ranking` if they are one, else as `preferences` with `margins`."""
    ranking = _ranking(preferences, num_responses=num_responses)
    if ranking is not None and rank_preferences(ranking) == tuple(preferences):
        return {"ranking": ranking}
    cells: dict[str, Any] = {"preferences": [[item.winner, item.loser] for item in preferences]}
    if any(item.margin is not None for item in preferences):
        cells["margins"] = [item.margin for item in preferences]
    return cells


def _ranking(preferences: Sequence[Preference], *, num_responses: int) -> list[int] | None:
    """Return the number of better responses of each response: its rank, if the preferences are a ranking."""
    if len(preferences) != num_responses * (num_responses - 1) // 2:
        return None
    better = [0] * num_responses
    for preference in preferences:
        if not preference.tie:
            better[preference.loser] += 1
    # Consecutive ranks, as in the data: 0, 1, 1, 2.
    ranks = sorted(set(better))
    return [ranks.index(number) for number in better]
