"""Describes a group in plain values, to show how a row is read."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from basereward.data.images.open_images import describe, open_image
from basereward.data.reading_text import format_reading
from basereward.data.schema.columns import ColumnsRead, ReportsColumns
from basereward.data.schema.group import SPLITS, Group, Part, Video
from basereward.data.schema.rejections import RowRejected
from basereward.data.sources import Source
from basereward.data.videos.open_videos import video_facts

if TYPE_CHECKING:
    from basereward.data.module import PreferenceData

logger = logging.getLogger(__name__)

# Characters of each text.
SHOWN_CHARACTERS = 160
SHOWN_RESPONSES = 8
# Rows that are tried for one with images that open.
MAX_TRIED = 10


def describe_reading(source: Source, first: Group | None) -> dict[str, Any]:
    """Describe how the rows of a source are read; its rows have been read before.

    Args:
        source: the source.
        first: the group that is shown; None: none.

    Returns:
        `formats`, those that rows were recognised as; `columns`, from our name of each column to the name in the data;
        `not_read`, the columns that are ignored; `notes`; `first`, as `describe_group` gives it, or None.

    Raises:
        ImageError: an image of `first` cannot be opened.

    >>> from basereward.data.sources.numbers import Numbers
    >>> describe_reading(Numbers("numbers", size=2), None)
    {'formats': [], 'columns': {}, 'not_read': [], 'notes': [], 'first': None}
    """
    columns = source.columns_read() if isinstance(source, ReportsColumns) else ColumnsRead()
    return {
        "formats": list(columns.formats),
        "columns": columns.read,
        "not_read": columns.unread,
        "notes": list(columns.notes),
        "first": None if first is None else describe_group(first),
    }


def log_reading(data: PreferenceData) -> None:
    """Log how the rows of each source from files are read, with the first one, so that a wrong mapping is seen.

    Args:
        data: after `setup`.
    """
    for name, source in data.sources.items():
        # Generated rows have no columns, and the rows of a stream are read later.
        if isinstance(source, ReportsColumns) and name in data.lengths["train"]:
            for line in format_reading(name, describe_reading(source, first_usable(data, name))):
                logger.info("%s", line)


def first_usable(data: PreferenceData, name: str) -> Group | None:
    """Return the first usable group of a source in any split; None if there is none.

    Args:
        data: after `setup`.
        name: of the source.
    """
    for split in SPLITS:
        lengths = data.lengths[split][name]
        if lengths:
            return data.sources[name].groups(split)[int(lengths.index[0])]
    return None


def first_shown(groups: Iterable[Sequence[Group]]) -> Group | None:
    """Return the first group whose images can be opened, of the first ten of each sequence; None if there is none.

    >>> first_shown([[Group("a", "mine", (), ("yes",), images=("no-such.png",)), Group("b", "mine", (), ("yes",))]]).id
    'b'
    """
    for members in groups:
        for group in members[:MAX_TRIED]:
            try:
                for image in group.all_images:
                    video_facts(image) if isinstance(image, Video) else open_image(image)
            except RowRejected:
                continue
            return group
    return None


def describe_group(group: Group) -> dict[str, Any]:
    """Describe the input and the targets of a group; texts are shortened.

    Returns:
        `id`; `turns`, each with `role` and `text`, in which "[image 1]" is the place of the first image and
        "[video 1]" that of the first video; `images`, each with `name`, `width` and `height` in pixels, upright, and
        the `turn` or the `response` it is in, from 0; `videos`, also with their `frames` and `fps` (or None);
        `num_responses`, and `responses`, at most 8 of them; `preferences`, each with `winner`, `loser`, `tie` and
        `margin`; `ratings`; `critiques` and `reasonings`, their numbers.

    Raises:
        ImageError: an image cannot be opened.

    >>> from basereward.data.schema.group import Part, Preference, Turn
    >>> facts = describe_group(Group("a", "mine", (Turn("user", (Part("Q"),)),), ("yes", "no"), (Preference(0, 1),)))
    >>> facts["turns"], facts["responses"], facts["preferences"]
    ([{'role': 'user', 'text': 'Q'}], ['yes', 'no'], [{'winner': 0, 'loser': 1, 'tie': False, 'margin': None}])
    """
    turns: list[dict[str, str]] = []
    # The turn or the response of each image and video.
    places: list[dict[str, int]] = []
    counts = {"image": 0, "video": 0}
    for number, turn in enumerate(group.prompt):
        turns.append({"role": turn.role, "text": _text(turn.parts, counts)})
        places += [{"turn": number}] * sum(part.is_visual for part in turn.parts)
    responses: list[str] = []
    for index in range(len(group.responses)):
        responses.append(_text(group.response_parts(index), counts))
        places += [{"response": index}] * len(group.images_of(index))
    images: list[dict[str, Any]] = []
    videos: list[dict[str, Any]] = []
    for visual, place in zip(group.all_images, places, strict=True):
        if isinstance(visual, Video):
            videos.append(_video_facts(visual) | place)
        else:
            # Opened, because the size in a file's header is that before the orientation of the camera is applied.
            width, height = open_image(visual).size
            images.append({"name": shortened(describe(visual)), "width": width, "height": height, **place})
    return {
        "id": group.id,
        "turns": turns,
        "images": images,
        "videos": videos,
        "num_responses": len(group.responses),
        "responses": responses[:SHOWN_RESPONSES],
        "preferences": [
            {"winner": preference.winner, "loser": preference.loser, "tie": preference.tie, "margin": preference.margin}
            for preference in group.preferences
        ],
        "ratings": list(group.ratings),
        "critiques": len(group.critiques),
        "reasonings": len(group.reasonings),
    }


def _video_facts(video: Video) -> dict[str, Any]:
    facts = video_facts(video)
    return {
        "name": shortened(video.name),
        "width": facts.width,
        "height": facts.height,
        "frames": facts.frames,
        "fps": facts.fps,
    }


def _text(parts: Iterable[Part], counts: dict[str, int]) -> str:
    """Return the text of parts with numbered places of images and videos, which are counted in `counts`."""
    pieces = []
    for part in parts:
        if part.is_visual:
            kind = "video" if part.is_video else "image"
            counts[kind] += 1
            pieces.append(f"[{kind} {counts[kind]}]")
        else:
            pieces.append(shortened(part.text or ""))
    return "".join(pieces)


def shortened(text: str, limit: int = SHOWN_CHARACTERS) -> str:
    """Shorten a text, and append its length if it is longer than the limit.

    >>> shortened("short"), shortened("word " * 100, 9)
    ('short', 'word word... (500 letters)')
    """
    return text if len(text) <= limit else f"{text[:limit].rstrip()}... ({len(text)} letters)"
