"""Handles rows with a video, which is stored as a folder of frames or as a file."""

from __future__ import annotations

import copy
from typing import Literal, Protocol, Self, TypeAlias, runtime_checkable

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected
from basereward.data.videos.open_videos import spaced
from basereward.data.videos.references import frame_names
from basereward.errors import DataError

# `lost` is the word of recipes for rejected rows.
VideoMode: TypeAlias = Literal["lost", "frames_as_images", "video"]


@runtime_checkable
class ListsImages(Protocol):
    """An adapter that lists the images of a folder, once the source has given it the image store."""

    def with_images(self, images: ImageStore) -> Self:
        """Return this adapter with the store in which it lists images."""
        ...


class VideoFrames:
    """Converts the video of a row to images or to one of our videos, or rejects the row.

    Args:
        mode: `lost` rejects rows with a video, with the reason `video`; `frames_as_images` uses frames of the folder as
            images; `video` leaves the choice of frames to the backbone, which must read videos.
        frames: the largest number of frames that become images, evenly spaced, with the first and the last one.

    Raises:
        DataError: `frames` is below 1.

    >>> VideoFrames("lost", frames=8).names("videos/cat")
    Traceback (most recent call last):
    basereward.data.schema.rejections.RowRejected: the row has a video, videos/cat. Set shape.video=video ...
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

    def cells(self, video: object) -> dict[str, list[str]]:
        """Convert the video of a row to the column `images` or `videos`.

        Raises:
            RowRejected: as `names`; in the mode `video` only `wrong_type`.

        >>> VideoFrames("video", frames=8).cells("videos/cat")
        {'videos': ['videos/cat']}
        """
        if self.mode != "video" or not isinstance(video, str):
            return {"images": self.names(video)}
        return {"videos": [video]}

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
                f"the row has a video, {folder}. Set shape.video=video for a backbone that reads videos. If it is a "
                f"folder of frames, shape.video=frames_as_images uses {self.frames} frames as images (shape.frames)",
            )
        names = frame_names(self.images.listing(folder))
        if not names:
            raise RowRejected(
                "video_missing",
                f"there is no folder {folder} with images; extract the frames of a video file into a folder of that "
                "name first",
            )
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
