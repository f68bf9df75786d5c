"""The part of a video that a model sees, and what a family of backbones says about videos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from basereward.data.videos.open_videos import VideoFacts

if TYPE_CHECKING:
    # Pages of rows are made without torch, which this imports.
    from basereward.data.images.vision_features import Grid


@dataclass(frozen=True, slots=True)
class Clip:
    """The frames of a video that are used, and how they are cut into patches.

    Attributes:
        indices: of the frames, ascending.
        fps: frames per second of the whole video.
        total: the number of frames of the whole video.
        grid: patches in time, height and width.
        patch_size, frames_per_patch: the side of a patch in pixels, and the frames that it joins.

    >>> clip = Clip((0, 12, 24, 36), fps=24.0, total=48, grid=(2, 4, 6), patch_size=14, frames_per_patch=2)
    >>> clip.size, clip.seconds_per_patch, clip.timestamps
    ((84, 56), 1.0, (0.25, 1.25))
    """

    indices: tuple[int, ...]
    fps: float
    total: int
    grid: Grid
    patch_size: int
    frames_per_patch: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a frame after resizing, in pixels."""
        return self.grid[2] * self.patch_size, self.grid[1] * self.patch_size

    @property
    def seconds_per_patch(self) -> float:
        """The seconds between patches that follow each other in time."""
        return self.frames_per_patch / (len(self.indices) / self.total * self.fps)

    @property
    def padded(self) -> tuple[int, ...]:
        """The indices with the last one repeated, so that every patch has all its frames."""
        missing = self.grid[0] * self.frames_per_patch - len(self.indices)
        return self.indices + self.indices[-1:] * missing

    @property
    def timestamps(self) -> tuple[float, ...]:
        """The seconds from the start to each patch in time: the middle between its first and its last frame."""
        seconds = [index / self.fps for index in self.padded]
        step = self.frames_per_patch
        return tuple((seconds[i] + seconds[i + step - 1]) / 2 for i in range(0, len(seconds), step))


class VideoProcessor(Protocol):
    """What a family of backbones says about videos.

    Attributes:
        token_id: the id of the token that stands for one visual token of a video.
        frame_processor: an image processor with the interface of Qwen-VL's, which gives the values of single frames.
    """

    token_id: int
    frame_processor: Any

    def clip(self, facts: VideoFacts) -> Clip:
        """Choose the frames of a video and their size.

        Raises:
            RowRejected: the frames are too narrow to be used.
        """
        ...

    def written(self, rendered: str, clips: list[Clip]) -> str:
        """Replace the places of videos in a rendered prompt by what stands for them, such as a token for each frame."""
        ...

    def token_counts(self, clip: Clip) -> list[int]:
        """The visual tokens at each of the video tokens that `written` puts in the place of a video."""
        ...

    def to_json_string(self) -> str:
        """Everything that the tokens and patches of a video depend on, as text for hashes."""
        ...

    def save_pretrained(self, folder: str | Path) -> None:
        """Save the processor in the format of the hub."""
        ...
