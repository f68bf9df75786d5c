"""Rows whose picture is a video, stored as a folder of frames."""

from __future__ import annotations

import re
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError

Mode: TypeAlias = Literal["lost", "frames_as_images"]
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


@runtime_checkable
class LooksInFolders(Protocol):
    """A shape that must know which pictures there are; the source calls this before the first row."""

    def look_in(self, images: ImageStore) -> None: ...


class Video:
    """What becomes of a row's video.

    Args:
        mode: `lost` loses the row, under `video`; `frames_as_images` turns the folder into several images.
        frames: how many at most, evenly spaced, the first and the last among them.

    Raises:
        DataError: `frames` is below 1.
    """

    def __init__(self, mode: Mode, *, frames: int) -> None:
        if frames < 1:
            raise DataError(f"frames is {frames}; at least 1 is needed")
        self.mode = mode
        self.frames = frames
        self.images = ImageStore()

    def names(self, folder: object) -> list[str]:
        """The chosen frames of a folder.

        Raises:
            RowRejected: `video` (they are not asked for) or `video_missing`.
        """
        if not isinstance(folder, str) or not folder:
            raise RowRejected("wrong_type", f"`video` is {shown(folder)}; the path of a folder of frames is needed")
        if self.mode == "lost":
            raise RowRejected(
                "video",
                f"the row has a video, {folder}; if that is a folder of frames, shape.video=frames_as_images takes "
                f"{self.frames} of them as images (shape.frames)",
            )
        found = sorted((name for name in self.images.listing(folder) if name.lower().endswith(SUFFIXES)), key=_in_order)
        if not found:
            raise RowRejected(
                "video_missing",
                f"there is no folder {folder} with pictures in it; of a film file take out the frames first, into a "
                "folder of its name",
            )
        return [found[index] for index in spaced(len(found), self.frames)]


def spaced(count: int, wanted: int) -> list[int]:
    """At most `wanted` of the indices below `count`, evenly spaced.

    >>> spaced(10, 4), spaced(3, 8), spaced(9, 1)
    ([0, 3, 6, 9], [0, 1, 2], [4])
    """
    if wanted >= count:
        return list(range(count))
    if wanted == 1:
        return [count // 2]
    return [index * (count - 1) // (wanted - 1) for index in range(wanted)]


def _in_order(name: str) -> list[tuple[int, str]]:
    """Numbers in names count as numbers: frame_2 comes before frame_10."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", name)]
