"""Marks of images with numbers, such as `<image_1>`, in the texts of a prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from basereward.data.schema.messages import PLACE, Message, shown
from basereward.data.schema.rejections import RowRejected

# The formats of MMMU, InternVL and Phi.
NUMBERED = re.compile(r"<image[ _-]?(\d{1,3})>|<\|image_(\d{1,3})\|>")


def with_numbered_marks(
    messages: Sequence[Message], references: list[Any], *, mark: str | None, typed: bool
) -> tuple[Sequence[Message], list[Any]]:
    """Replace numbered marks by `<image>`, and sort the references of the images by the numbers.

    Args:
        messages: the messages of the prompt.
        references: the images of the row.
        mark: the mark of images; numbered marks are text if it is not `<image>`.
        typed: whether marks in text parts count too, beside those in strings.

    Raises:
        RowRejected: `image_count` (the marks are not one for each image, or plain marks stand beside them).

    >>> message = Message("user", ("Is <image_2> the same as <image_1>?",))
    >>> [marked], images = with_numbered_marks([message], ["a.png", "b.png"], mark=PLACE, typed=False)
    >>> marked.text, images
    ('Is <image> the same as <image>?', ['b.png', 'a.png'])
    """
    if mark != PLACE:
        return messages, references
    marked: list[Message] = []
    numbers: list[int] = []
    for message in messages:
        if typed or not message.typed:
            numbers += _numbers(message.text)
            marked.append(_with_plain_marks(message))
        else:
            marked.append(message)
    # Images are numbered from 0 or 1. Marks without a first one are part of the text, as in VL-RewardBench, where a
    # question names its options so, which are all in one image.
    if not numbers or min(numbers) > 1:
        return messages, references
    _check_numbers(numbers, messages, num_images=len(references))
    # A few data sets count from 0.
    first = min(numbers)
    return marked, [references[number - first] for number in numbers]


def _check_numbers(numbers: Sequence[int], messages: Sequence[Message], *, num_images: int) -> None:
    """Check that there is one numbered mark for each image, and no other mark."""
    first = min(numbers)
    has_plain = any(PLACE in message.text for message in messages)
    if has_plain or sorted(numbers) != list(range(first, first + num_images)):
        what = "plain marks stand beside them" if has_plain else "one mark for each image is needed"
        raise RowRejected(
            "image_count",
            f"the marks of images in the prompt have the numbers {shown(numbers)}, and the row has {num_images} "
            f"images; {what}. If the marks are part of the text, set image_mark: null",
        )


def has_numbered_mark(text: str) -> bool:
    """Whether a text has a mark with a number.

    >>> has_numbered_mark("<image 1>"), has_numbered_mark("<image>")
    (True, False)
    """
    return NUMBERED.search(text) is not None


def _numbers(text: str) -> list[int]:
    # One of the two groups of the pattern is empty.
    return [int("".join(groups)) for groups in NUMBERED.findall(text)]


def _with_plain_marks(message: Message) -> Message:
    parts = tuple(NUMBERED.sub(PLACE, part) if isinstance(part, str) else part for part in message.parts)
    return replace(message, parts=parts)
