"""Videos of the Qwen-VL families: which frames are used, at what size, and what stands for them in a prompt.

The rules are those of transformers' video processors. Frames are resized by Pillow, as images are, because
transformers' own resizing needs torchvision. So does the import of its processor of Qwen2-VL, which is written again
here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD  # type: ignore[attr-defined]
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as frame_size
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as volume_size
from transformers.video_utils import VideoMetadata

from basereward.data.images.image_store import ImageError
from basereward.data.videos.clips import Clip
from basereward.data.videos.open_videos import VideoFacts
from basereward.errors import ModelError
from basereward.model.saving.identity import find_file
from basereward.recipe.schema import VideoRecipe

VIDEO_CONFIG = "video_preprocessor_config.json"
DEFAULT_FPS = 2.0
"""Frames per second where neither the recipe nor the checkpoint says one, as in Qwen's own qwen-vl-utils."""
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
"""What the chat templates write at the place of a video."""
# How a floor above the smallest size keeps a frame from being enlarged again, as in qwen-vl-utils.
ABOVE_SMALLEST = 1.05


class Qwen2VLVideoProcessor(Qwen3VLVideoProcessor):
    """The settings of transformers' processor of this name, and its choice of frames.

    >>> Qwen2VLVideoProcessor(min_pixels=3136).size.shortest_edge
    3136
    """

    # The name is that of transformers, because it is saved as `video_processor_type`.
    size = MappingProxyType({"shortest_edge": 128 * 28 * 28, "longest_edge": 28 * 28 * 768})  # type: ignore[assignment]
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    patch_size = 14
    do_sample_frames = False
    max_video_tokens = 128000
    fps = None  # type: ignore[assignment]  # transformers annotates the value of its own class

    def __init__(self, **settings: Any) -> None:
        size = dict(settings.pop("size", None) or self.size)
        # The names of the limits in preprocessor_config.json.
        for old, new in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
            if settings.get(old) is not None:
                size[new] = settings[old]
            settings.pop(old, None)
        super().__init__(size=size, **settings)

    def sample_frames(  # type: ignore[override]  # the base gives an array of the same numbers
        self, metadata: VideoMetadata, num_frames: int | None = None, fps: float | None = None, **options: Any
    ) -> list[int]:
        """Choose frames at equal distances from the first one, as many as fill whole patches.

        Args:
            metadata: the frames per second and the number of frames of the video.
            num_frames: how many frames, which the video has; None: by `fps`.
            fps: frames per second.
            options: not read.

        >>> Qwen2VLVideoProcessor().sample_frames(VideoMetadata(total_num_frames=48, fps=24.0), fps=2.0)
        [0, 12, 24, 36]
        """
        total, step = metadata.total_num_frames, self.temporal_patch_size
        if num_frames is None:
            assert fps is not None
            assert metadata.fps is not None
            most = min(self.max_frames, total) // step * step
            num_frames = math.floor(min(max(total / metadata.fps * fps, self.min_frames), most, total) / step) * step
        else:
            # transformers refuses a video that is one frame shorter than the rounded number.
            num_frames = max(1, min(round(num_frames / step), total // step)) * step
        # In float32, as in transformers: other roundings give other frames.
        indices: list[int] = torch.arange(0, total, total / num_frames).int().tolist()
        return indices


class QwenVideos:
    """Videos of Qwen2-VL and Qwen2.5-VL: the limits of pixels are those of a frame, and a video is one run of tokens.

    Args:
        processor: transformers' video processor of the checkpoint.
        image_processor: of the checkpoint; the values of a frame are those of an image with the mean and the spread of
            `processor`.
        token_id: of the video token.
        settings: of the recipe.

    >>> from transformers import Qwen2VLImageProcessorPil
    >>> images = Qwen2VLImageProcessorPil()
    >>> videos = QwenVideos(Qwen2VLVideoProcessor(), image_processor=images, token_id=7, settings=VideoRecipe(frames=4))
    >>> videos.clip(VideoFacts(frames=48, fps=24.0, width=640, height=360)).indices
    (0, 12, 24, 36)
    """

    def __init__(self, processor: Any, *, image_processor: Any, token_id: int, settings: VideoRecipe) -> None:
        self.processor = processor
        self.token_id = token_id
        self.settings = settings
        self.frame_processor = copy.copy(image_processor)
        for name in ("image_mean", "image_std", "rescale_factor", "do_rescale", "do_normalize"):
            setattr(self.frame_processor, name, getattr(processor, name))
        # Without the checkpoint's own frames per second, which transformers refuses beside a number of frames.
        self._sampler = copy.copy(processor)
        self._sampler.fps = None
        for name in ("min_frames", "max_frames"):
            if getattr(settings, name) is not None:
                setattr(self._sampler, name, getattr(settings, name))

    def clip(self, facts: VideoFacts) -> Clip:
        """As in `VideoProcessor`."""
        processor = self.processor
        fps = facts.fps or self.settings.frames_fps
        indices = self._sampled(facts.frames, fps)
        try:
            height, width = self.size(len(indices), height=facts.height, width=facts.width)
        except ValueError as error:
            raise ImageError("image_aspect_ratio", f"a frame has {facts.width} x {facts.height}: {error}") from None
        step, side = processor.temporal_patch_size, processor.patch_size
        grid = (-(-len(indices) // step), height // side, width // side)
        return Clip(tuple(indices), fps, facts.frames, grid, patch_size=side, frames_per_patch=step)

    def size(self, frames: int, *, height: int, width: int) -> tuple[int, int]:
        """The height and width of frames after resizing, in pixels.

        Args:
            frames: their number.
            height, width: before resizing.
        """
        processor, settings = self.processor, self.settings
        largest = settings.frame_pixels or processor.size.longest_edge
        smallest = min(processor.size.shortest_edge, largest)
        if settings.total_pixels is not None:
            # An even share of the budget, as `cap_pixels_per_frame` of transformers.
            share = settings.total_pixels * processor.temporal_patch_size // frames
            largest = max(min(largest, share), int(ABOVE_SMALLEST * smallest))
        factor = processor.patch_size * processor.merge_size
        sides: tuple[int, int] = frame_size(height, width, factor, min_pixels=smallest, max_pixels=largest)
        return sides

    def written(self, rendered: str, clips: Sequence[Clip]) -> str:
        """The prompt as it is: the one token of a video is repeated."""
        return rendered

    def token_counts(self, clip: Clip) -> list[int]:
        """All visual tokens of the video."""
        time, height, width = clip.grid
        return [time * height * width // self.processor.merge_size**2]

    def to_json_string(self) -> str:
        """As in `VideoProcessor`."""
        return f"{type(self).__name__} {self.processor.to_json_string()} {self.settings}"

    def save_pretrained(self, folder: str | Path) -> None:
        """As in `VideoProcessor`; the settings of the recipe are saved with the recipe."""
        self.processor.save_pretrained(folder)

    def _sampled(self, total: int, fps: float) -> list[int]:
        """The indices of the frames that are used."""
        step = self.processor.temporal_patch_size
        # transformers' rules divide by zero for videos that are shorter than one patch.
        if total <= step:
            return list(range(total))
        options: dict[str, Any] = {"fps": self.settings.fps or self.processor.fps or DEFAULT_FPS}
        if self.settings.frames is not None:
            options = {"num_frames": min(self.settings.frames, total)}
        indices = self._sampler.sample_frames(VideoMetadata(total_num_frames=total, fps=fps), **options)
        return [int(index) for index in indices]


class Qwen3Videos(QwenVideos):
    """Videos of Qwen3-VL: the limits of pixels are those of a whole video, and each patch in time has its time as text.

    Args:
        processor, image_processor, token_id, settings: as of `QwenVideos`.

    >>> clip = Clip((0, 12), fps=24.0, total=48, grid=(1, 2, 2), patch_size=16, frames_per_patch=2)
    >>> Qwen3Videos.written(None, VIDEO, [clip])
    '<0.2 seconds><|vision_start|><|video_pad|><|vision_end|>'
    """

    def size(self, frames: int, *, height: int, width: int) -> tuple[int, int]:
        """As of the base; the limits of the processor are numbers of pixels of all frames together."""
        processor, settings = self.processor, self.settings
        step = processor.temporal_patch_size
        # A shorter video is padded to one patch, which transformers' rule refuses.
        frames = max(frames, step)
        largest = settings.total_pixels or processor.size.longest_edge
        smallest = min(processor.size.shortest_edge, largest)
        if settings.frame_pixels is not None:
            share = max(min(settings.frame_pixels, largest // frames), int(ABOVE_SMALLEST * smallest))
            largest = share * frames
        sides: tuple[int, int] = volume_size(
            frames,
            height,
            width,
            temporal_factor=step,
            factor=processor.patch_size * processor.merge_size,
            min_pixels=smallest,
            max_pixels=largest,
        )
        return sides

    def written(self, rendered: str, clips: Sequence[Clip]) -> str:
        """The prompt with a time and a video token for each patch in time."""
        # In the prompts that Qwen3-VL was trained with, the tokens around a video are those around each of its patches.
        pieces = rendered.split(VIDEO)
        # A wrong number of places is reported where the tokens are counted.
        if len(pieces) != len(clips) + 1:
            return rendered
        text = pieces[0]
        for clip, piece in zip(clips, pieces[1:], strict=True):
            text += "".join(f"<{seconds:.1f} seconds>{VIDEO}" for seconds in clip.timestamps) + piece
        return text

    def token_counts(self, clip: Clip) -> list[int]:
        """The visual tokens of each patch in time."""
        time, height, width = clip.grid
        return [height * width // self.processor.merge_size**2] * time


def load_videos(
    model_type: str,
    *,
    path: str | Path,
    source: dict[str, Any],
    image_processor: Any,
    token_id: int,
    settings: VideoRecipe,
) -> QwenVideos:
    """Load the video processor of a checkpoint of a Qwen-VL family.

    Args:
        model_type: of the checkpoint.
        path: hub id or folder.
        source: keyword arguments of transformers that say what is read.
        image_processor: of the checkpoint.
        token_id: of the video token.
        settings: of the recipe.

    Raises:
        ModelError: the video processor cuts other patches than the image processor, or its settings are no numbers.
    """
    is_third = model_type == "qwen3_vl"
    reader, videos = (Qwen3VLVideoProcessor, Qwen3Videos) if is_third else (Qwen2VLVideoProcessor, QwenVideos)
    # Without a file of its own, a checkpoint has the settings of its image processor, as in transformers.
    try:
        processor: Any = reader.from_pretrained(path, **source)
    except OSError:
        # A policy that was saved here has them in processor_config.json, where transformers does not look for videos.
        if find_file(path, VIDEO_CONFIG, revision=source.get("revision")) is not None:
            raise
        processor = reader.from_dict(image_processor.to_dict())
    _check_processor(processor, image_processor, path=path)
    return videos(processor, image_processor=image_processor, token_id=token_id, settings=settings)


def _check_processor(processor: Any, image_processor: Any, *, path: str | Path) -> None:
    for name in ("patch_size", "merge_size", "temporal_patch_size"):
        given, expected = getattr(processor, name), getattr(image_processor, name)
        if given != expected:
            raise ModelError(
                f"the video processor of '{path}' has {name} {given}, and its image processor has {expected}; both "
                "feed one vision tower. Copy video_preprocessor_config.json and preprocessor_config.json again"
            )
    size = processor.size
    numbers = {"shortest_edge": size.shortest_edge, "longest_edge": size.longest_edge}
    numbers |= {name: getattr(processor, name) for name in ("min_frames", "max_frames")}
    # The frames per second may be left to the caller.
    numbers["fps"] = processor.fps or DEFAULT_FPS
    for name, value in numbers.items():
        if not _is_positive(value):
            detail = f"{name} {str(value)[:80]}; a number above 0 is needed"
            raise ModelError(f"the video processor of '{path}' has {detail}")


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
