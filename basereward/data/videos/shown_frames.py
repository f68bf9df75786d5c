"""Frames of videos for pages that people read."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from basereward.data.schema.group import IMAGE, Group, Image, Part, Video
from basereward.data.videos.clips import VideoProcessor
from basereward.data.videos.open_videos import VideoFacts, read_frames, spaced, video_facts

SHOWN = 8
"""Frames of a video that a page without a model shows."""


def with_shown_frames(group: Group, *, wanted: int = SHOWN, processor: VideoProcessor | None = None) -> Group:
    """Return a group in which every video is a line about it, and frames as images, each after its time.

    Args:
        group: the group.
        wanted: without a processor, the largest number of frames of a video, which are evenly spaced.
        processor: of a model. The frames are those that the model reads, in the size in which it reads them.

    Raises:
        RowRejected: a video cannot be opened.

    >>> from basereward.data.schema.group import VIDEO, Turn
    >>> import PIL.Image
    >>> video = Video(frames=(PIL.Image.new("RGB", (8, 4)),) * 20, fps=2.0, name="clip")
    >>> shown = with_shown_frames(Group("a", "s", (Turn("user", (VIDEO,)),), ("yes",), images=(video,)), wanted=2)
    >>> [part.text for part in shown.prompt[0].parts], len(shown.images)
    (['[video: 20 frames, 2 a second; 2 are shown, evenly spaced] [0 s]', None, '[9.5 s]', None], 2)
    """
    if not any(isinstance(visual, Video) for visual in group.images):
        return group
    remaining = iter(group.images)
    images: list[Image] = []
    turns = []
    for turn in group.prompt:
        parts: list[Part] = []
        for part in turn.parts:
            visual = next(remaining) if part.is_visual else None
            if isinstance(visual, Video):
                shown = _spaced_frames(visual, wanted) if processor is None else _read_frames(visual, processor)
                parts += _written(shown)
                images += shown.frames
            else:
                parts.append(part)
                images += [] if visual is None else [visual]
        turns.append(replace(turn, parts=tuple(parts)))
    return replace(group, prompt=tuple(turns), images=tuple(images))


class _Shown(NamedTuple):
    line: str  # about the video
    seconds: list[float]  # from the start to each frame; empty: unknown
    frames: list[Image]


def _written(shown: _Shown) -> list[Part]:
    """A line about a video, and its frames with their times."""
    parts: list[Part] = []
    text = shown.line
    for index in range(len(shown.frames)):
        text += f" [{shown.seconds[index]:.4g} s]" if shown.seconds else ""
        parts += [Part(text.strip()), IMAGE] if text.strip() else [IMAGE]
        text = ""
    return parts


def _spaced_frames(video: Video, wanted: int) -> _Shown:
    facts = video_facts(video)
    indices = spaced(facts.frames, wanted)
    line = f"[{_about(facts)}; {len(indices)} are shown, evenly spaced]"
    seconds = [] if facts.fps is None else [index / facts.fps for index in indices]
    if video.file is None:
        return _Shown(line, seconds, [video.frames[index] for index in indices])
    return _Shown(line, seconds, list(read_frames(video, indices)))


def _read_frames(video: Video, processor: VideoProcessor) -> _Shown:
    """The frames that a model reads, resized as it reads them."""
    from basereward.data.videos.video_pixels import resized  # needs torch, which pages without a model do not

    facts = video_facts(video)
    clip = processor.clip(facts)
    width, height = clip.size
    line = f"[{_about(facts)}; the model reads {len(clip.indices)}, in {width} x {height} pixels]"
    # One after another, since the frames of a long video may not fit into the memory in full size.
    frames: list[Image] = [resized(frame, clip) for frame in read_frames(video, clip.indices)]
    return _Shown(line, [index / clip.fps for index in clip.indices], frames)


def _about(facts: VideoFacts) -> str:
    rate = "" if facts.fps is None else f", {facts.fps:g} a second"
    return f"video: {facts.frames} frames{rate}"
