"""Frames of videos for pages that people read."""

from __future__ import annotations

from dataclasses import replace

from basereward.data.schema.group import IMAGE, Group, Image, Part, Video
from basereward.data.videos.open_videos import read_frames, video_facts

SHOWN = 8
"""Frames of a video that a page shows."""


def spaced(count: int, wanted: int) -> list[int]:
    """Choose at most `wanted` evenly spaced indices below `count`, with the first and the last one.

    >>> spaced(10, 4), spaced(3, 8), spaced(9, 1)
    ([0, 3, 6, 9], [0, 1, 2], [4])
    """
    if wanted >= count:
        return list(range(count))
    if wanted == 1:
        return [count // 2]
    return [index * (count - 1) // (wanted - 1) for index in range(wanted)]


def with_shown_frames(group: Group, *, wanted: int = SHOWN) -> Group:
    """Return a group in which every video is a line about it and evenly spaced frames as images.

    Args:
        group: the group.
        wanted: the largest number of frames of a video.

    Raises:
        ImageError: a video cannot be opened.

    >>> from basereward.data.schema.group import VIDEO, Turn
    >>> import PIL.Image
    >>> video = Video(frames=(PIL.Image.new("RGB", (8, 4)),) * 20, fps=2.0, name="clip")
    >>> shown = with_shown_frames(Group("a", "s", (Turn("user", (VIDEO,)),), ("yes",), images=(video,)), wanted=2)
    >>> [part.text for part in shown.prompt[0].parts], len(shown.images)
    (['[video: 20 frames, 2 a second; 2 are shown]', None, None], 2)
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
                line, frames = _shown(visual, wanted)
                parts += [Part(line), *[IMAGE] * len(frames)]
                images += frames
            else:
                parts.append(part)
                images += [] if visual is None else [visual]
        turns.append(replace(turn, parts=tuple(parts)))
    return replace(group, prompt=tuple(turns), images=tuple(images))


def _shown(video: Video, wanted: int) -> tuple[str, list[Image]]:
    facts = video_facts(video)
    indices = spaced(facts.frames, wanted)
    rate = "" if facts.fps is None else f", {facts.fps:g} a second"
    line = f"[video: {facts.frames} frames{rate}; {len(indices)} are shown]"
    if video.file is None:
        return line, [video.frames[index] for index in indices]
    return line, list(read_frames(video, indices))
