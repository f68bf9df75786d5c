"""A preference to annotate, and the row that is written of it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basereward.data.encoding.chat import messages
from basereward.data.encoding.content_hash import image_file_content
from basereward.data.images.open_images import ImageError, open_image
from basereward.data.schema.group import Group, Image, Turn, Video, split_visuals, visual_content
from basereward.io.files import write_atomic


@dataclass(frozen=True)
class Pair:
    """A preference, and the order in which its responses are shown.

    >>> pair = Pair("a", Group("a", "text", (), ("4", "5")), winner=0, loser=1, winner_first=False)
    >>> pair.shown, pair.verdict
    ((1, 0), 2)
    """

    id: str
    group: Group
    winner: int
    loser: int
    winner_first: bool

    @property
    def shown(self) -> tuple[int, int]:
        """The indices of the responses in the order shown."""
        return (self.winner, self.loser) if self.winner_first else (self.loser, self.winner)

    @property
    def verdict(self) -> int:
        """The right verdict: 1 if the winner is shown first, otherwise 2."""
        return 1 if self.winner_first else 2


def digest(pairs: Iterable[Pair]) -> str:
    """Hash all of pairs that a judge sees to 16 hexadecimal digits: ids, prompts, responses, verdicts, images, videos.

    Images and videos count by their content, since other files may have the same names.

    >>> len(digest([]))
    16
    >>> one, other = (Group("a", "s", (), ("4", "5"), images=(content,)) for content in (b"1", b"2"))
    >>> digest([Pair("a", one, 0, 1, winner_first=True)]) == digest([Pair("a", other, 0, 1, winner_first=True)])
    False
    """
    combined = hashlib.sha256()
    for pair in pairs:
        shown: tuple[Any, ...] = tuple(pair.group.responses[index] for index in pair.shown)
        if pair.group.response_images:
            # Responses that are images alone have equal texts.
            shown = (*shown, *(_drawn(pair.group, index) for index in pair.shown))
        parts: tuple[Any, ...] = (pair.id, pair.verdict, pair.group.prompt, shown)
        # Only if there are any, so that answers about pairs without images stay valid.
        if pair.group.images:
            parts = (*parts, [visual_content(image, image_file_content).hex() for image in pair.group.images])
        # `surrogatepass`: texts of public data sets hold unpaired surrogates, which UTF-8 cannot encode.
        combined.update(repr(parts).encode("utf-8", "surrogatepass"))
    return combined.hexdigest()[:16]


def _drawn(group: Group, index: int) -> str:
    """The texts, the places and the content of the images of a response."""
    content = [image_file_content(placed.image).hex() for placed in group.images_of(index)]
    return repr((group.response_parts(index), content))


def reasoning(text: str) -> str:
    """Extract what a judge wrote before its verdict, without the tags around it.

    >>> reasoning("<think>2 is false.</think><answer>1</answer>")
    '2 is false.'
    """
    # The last `</think>`: the reasoning may mention the tag. A text without one ends at its verdict.
    before = text.rpartition("</think>")[0] if "</think>" in text else text.partition("<answer>")[0]
    return before.replace("<think>", "", 1).strip()


def pair_row(pair: Pair, folder: Path) -> dict[str, Any]:
    """Make a row in the general form, with the responses in the order shown.

    Args:
        pair: the preference.
        folder: gets the images that are not files; the row names them relative to the parent of `folder`.

    >>> pair = Pair("a", Group("a", "text", (), ("4", "5")), winner=0, loser=1, winner_first=False)
    >>> row = pair_row(pair, Path("images"))
    >>> row["responses"], row["preferences"]
    (['5', '4'], [[1, 0]])
    """
    group = pair.group
    row: dict[str, Any] = {
        "id": pair.id,
        "prompt": messages(group.prompt, in_parts=True),
        "responses": [_response(group, index) for index in pair.shown],
        "preferences": [[0, 1] if pair.winner_first else [1, 0]],
        "verdict": pair.verdict,
    }
    images, videos = split_visuals(group.images)
    if images:
        row["images"] = list(_image_paths(images, folder))
    if videos:
        row["videos"] = [_video_reference(video, folder) for video in videos]
    if group.response_images:
        row["response_images"] = [
            list(_image_paths([placed.image for placed in group.images_of(index)], folder)) for index in pair.shown
        ]
    return row


def _response(group: Group, index: int) -> Any:
    """A response as its text, or as a message if it has images."""
    if not group.images_of(index):
        return group.responses[index]
    return messages([Turn("assistant", group.response_parts(index))], in_parts=True)[0]


def _video_reference(video: Video, folder: Path) -> dict[str, Any] | str:
    """A video as it stands in a row: the frames, or the path of a file.

    Raises:
        ImageError: it is a file without a path, or a frame cannot be opened.
    """
    if isinstance(video.file, str | Path):
        return str(Path(video.file).absolute())
    if video.file is not None:
        raise ImageError("video_not_read", f"{video.name} has no path, which the written row needs; give its path")
    frames = {"frames": list(_image_paths(video.frames, folder))}
    return frames if video.fps is None else {**frames, "fps": video.fps}


def _image_paths(images: Sequence[Image], folder: Path) -> Iterator[str]:
    """The paths of images; those that are not files are written to `folder`."""
    for image in images:
        if isinstance(image, str | Path):
            yield str(Path(image).absolute())
            continue
        buffer = io.BytesIO()
        open_image(image).save(buffer, "PNG")
        content = buffer.getvalue()
        # Named by its content, so that an image of many pairs is written once.
        file = folder / f"{hashlib.sha256(content).hexdigest()[:32]}.png"
        if not file.is_file():
            folder.mkdir(exist_ok=True)
            write_atomic(file, content)
        yield f"{folder.name}/{file.name}"
