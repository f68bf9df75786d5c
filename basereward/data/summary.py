"""Describes a group in plain values, to show how a row is read."""

from __future__ import annotations

from typing import Any

from basereward.data.images.open_images import describe, open_image
from basereward.data.schema.group import Group, Turn

# Characters of each text.
SHOWN_CHARACTERS = 160
SHOWN_RESPONSES = 8


def describe_group(group: Group) -> dict[str, Any]:
    """Describe the input and the targets of a group; texts are shortened.

    Returns:
        `id`; `turns`, each with `role` and `text`, in which "[image 1]" is the place of the first image; `images`,
        each with `name`, `width` and `height` in pixels, upright, and the `turn` it is in, from 0; `num_responses`, and
        `responses`, at most 8 of them; `preferences`, each with `winner`, `loser`, `tie` and `margin`; `ratings`;
        `critiques` and `reasonings`, their numbers.

    Raises:
        ImageError: an image cannot be opened.

    >>> from basereward.data.schema.group import Part, Preference
    >>> facts = describe_group(Group("a", "mine", (Turn("user", (Part("Q"),)),), ("yes", "no"), (Preference(0, 1),)))
    >>> facts["turns"], facts["responses"], facts["preferences"]
    ([{'role': 'user', 'text': 'Q'}], ['yes', 'no'], [{'winner': 0, 'loser': 1, 'tie': False, 'margin': None}])
    """
    turns: list[dict[str, str]] = []
    # The turn of each image.
    places: list[int] = []
    for number, turn in enumerate(group.prompt):
        turns.append({"role": turn.role, "text": _text(turn, first=len(places) + 1)})
        places += [number] * sum(part.is_image for part in turn.parts)
    # Opened, because the size in a file's header is that before the orientation of the camera is applied.
    sizes = [open_image(image).size for image in group.images]
    return {
        "id": group.id,
        "turns": turns,
        "images": [
            {"name": shortened(describe(image)), "width": width, "height": height, "turn": turn}
            for image, (width, height), turn in zip(group.images, sizes, places, strict=True)
        ],
        "num_responses": len(group.responses),
        "responses": [shortened(response) for response in group.responses[:SHOWN_RESPONSES]],
        "preferences": [
            {"winner": preference.winner, "loser": preference.loser, "tie": preference.tie, "margin": preference.margin}
            for preference in group.preferences
        ],
        "ratings": list(group.ratings),
        "critiques": len(group.critiques),
        "reasonings": len(group.reasonings),
    }


def _text(turn: Turn, *, first: int) -> str:
    """Return the text of a turn with numbered image places; `first` is the number of the first one."""
    pieces = []
    number = first
    for part in turn.parts:
        pieces.append(f"[image {number}]" if part.is_image else shortened(part.text or ""))
        number += part.is_image
    return "".join(pieces)


def shortened(text: str, limit: int = SHOWN_CHARACTERS) -> str:
    """Shorten a text, and append its length if it is longer than the limit.

    >>> shortened("short"), shortened("word " * 100, 9)
    ('short', 'word word... (500 letters)')
    """
    return text if len(text) <= limit else f"{text[:limit].rstrip()}... ({len(text)} letters)"
