"""Handles rows with a video, which is stored as a folder of frames."""

from __future__ import annotations

import copy
import re
from typing import Literal, Protocol, Self, TypeAlias, runtime_checkable

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError

# `lost` is the word of recipes for rejected rows.
VideoMode: TypeAlias = Literal["lost", "frames_as_images"]
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


@runtime_checkable
class ListsImages(Protocol):
    """An adapter that lists the images of a folder, once the source has given it the image store."""

    def with_images(self, images: ImageStore) -> Self:
        """Return this adapter with the store in which it lists images."""
        ...


class VideoFrames:
    """Converts the video of a row to images, or rejects the row.

    Args:
        mode: `lost` rejects rows with a video, with the reason `video`; `frames_as_images` uses frames of the folder as
            images.
        frames: the largest number of frames of one video. They are evenly spaced and include the first and the last.

    Raises:
        DataError: `frames` is below 1.

    >>> VideoFrames("lost", frames=8).names("videos/cat")
    Traceback (most recent call last):
    basereward.data.schema.rejections.RowRejected: the row has a video, videos/cat. If it is a folder of frames, ...
    """

    def __init__(self, mode: VideoMode, *, frames: int) -> None:
        if frames < 1:
            raise DataError(f"frames is {frames}; it must be at least 1")
        self.mode = mode
        self.frames = frames
        self.images = ImageStore()

    def with_images(self, images: ImageStore) -> Self:
        """Return the same settings with a store, in which frames are listed."""
        other = copy.copy(self)
        other.images = images
        return other

    def names(self, folder: object) -> list[str]:
        """Select frames of a folder and return their names, in the order of the video.

        Raises:
            RowRejected: `wrong_type`, `video` (the mode is `lost`) or `video_missing`.
        """
        if not isinstance(folder, str) or not folder:
            raise RowRejected("wrong_type", f"`video` is {shown(folder)}; the path of a folder of frames is needed")
        if self.mode == "lost":
            raise RowRejected(
                "video",
                f"the row has a video, {folder}. If it is a folder of frames, set shape.video=frames_as_images to use "
                f"{self.frames} frames as images (shape.frames)",
            )
        names = [name for name in self.images.listing(folder) if name.lower().endswith(SUFFIXES)]
        if not names:
            raise RowRejected(
                "video_missing",
                f"there is no folder {folder} with images; extract the frames of a video file into a folder of that "
                "name first",
            )
        # Frame numbers without leading zeros would be sorted as 1, 10, 2.
        names.sort(key=numeric_order)
        return [names[index] for index in spaced(len(names), self.frames)]


class ReadsVideo:
    """The common base of adapters of rows with a video.

    Args:
        video, frames: as in `VideoFrames`.

    >>> ReadsVideo("lost", frames=8).with_images(ImageStore("pictures"))._video.images.root.as_posix()
    'pictures'
    """

    def __init__(self, video: VideoMode, *, frames: int) -> None:
        self._video = VideoFrames(video, frames=frames)

    def with_images(self, images: ImageStore) -> Self:
        """Return this adapter with the store in which it lists frames."""
        other = copy.copy(self)
        other._video = self._video.with_images(images)
        return other


def spaced(count: int, wanted: int) -> list[int]:
    """Choose at most `wanted` evenly spaced indices below `count`.

    >>> spaced(10, 4), spaced(3, 8), spaced(9, 1)
    ([0, 3, 6, 9], [0, 1, 2], [4])
    """
    if wanted >= count:
        return list(range(count))
    if wanted == 1:
        return [count // 2]
    return [index * (count - 1) // (wanted - 1) for index in range(wanted)]


def numeric_order(name: str) -> list[tuple[int, str]]:
    """Sort key that compares digits as numbers.

    >>> sorted(["frame_10", "frame_2"], key=numeric_order)
    ['frame_2', 'frame_10']
    """
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", name)]
