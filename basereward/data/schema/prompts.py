"""Assembles the prompt of a row from its columns, and assigns a place in it to each image."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal, cast

from basereward.data.schema.group import IMAGE, VIDEO, Part, Turn
from basereward.data.schema.image_marks import with_numbered_marks
from basereward.data.schema.messages import ImagePart, Message, MessagePart, MessageReader, VideoPart, shown
from basereward.data.schema.rejections import ColumnRejected, RowRejected
from basereward.data.schema.text import is_blank
from basereward.errors import format_count

VIDEO_MARK = "<video>"
"""The text in a prompt that stands for the next video of the row."""


def join_prompt(prompt: list[Message] | None, before: Sequence[list[Message]]) -> list[Message]:
    """Combine the column `prompt` with the messages before the responses.

    These messages may repeat the prompt and continue it, continue it with a turn of the assistant, or be the complete
    conversation that ends with the prompt. No turn is dropped.

    Args:
        prompt: the messages of the column `prompt`; None if there is no such column.
        before: for each response, the messages before it.

    Returns:
        The messages of the prompt; empty if there are none.

    Raises:
        RowRejected: `prompts_differ`.

    >>> question, answer = Message("user", ("Q",)), Message("assistant", ("A",))
    >>> [message.role for message in join_prompt([question], [[answer, question]] * 2)]
    ['user', 'assistant', 'user']
    """
    leading = _common_messages(before)
    if not prompt or not leading:
        return prompt or leading
    if leading[: len(prompt)] == prompt:
        return leading
    if leading[0].role == "assistant" and prompt[-1].role == "user":
        return prompt + leading
    if leading[0].role != "assistant" and leading[-len(prompt) :] == prompt:
        return leading
    detail = "the turns before the responses differ from `prompt`; remove one of the two"
    raise RowRejected("prompts_differ", detail)


def _common_messages(before: Sequence[list[Message]]) -> list[Message]:
    """Return the messages before the responses, which must be the same for all of them.

    Raises:
        RowRejected: `prompts_differ`.
    """
    # A preference compares responses to one prompt. After different earlier turns, they answer different prompts.
    if any(messages != before[0] for messages in before[1:]):
        raise RowRejected(
            "prompts_differ",
            "the turns before the last one differ between the responses; all responses need the same prompt",
        )
    return before[0]


def with_input(messages: list[Message], text: object) -> list[Message]:
    """Append the text of the column `input` to the last turn of the prompt, as the Alpaca format does.

    >>> with_input([Message("user", ("Translate.",))], "Hi")[-1].text
    'Translate.\\nHi'

    Raises:
        RowRejected: `wrong_type`.
    """
    if not isinstance(text, str):
        raise RowRejected("wrong_type", f"`input` is {shown(text)}; a text is needed")
    *before, last = messages
    parts = last.parts
    # Into the last text part, because chat templates may put image tokens or line breaks between parts.
    if parts and isinstance(parts[-1], str):
        joined = f"{parts[-1]}\n{text}" if parts[-1] else text
        parts = (*parts[:-1], joined)
    else:
        parts = (*parts, text)
    return [*before, Message(last.role, parts, typed=last.typed)]


def with_history(messages: list[Message], history: object, *, reader: MessageReader) -> list[Message]:
    """Insert the turns of the column `history` before the prompt, after its system turn.

    Args:
        messages: the messages of the prompt.
        history: a list of [question, answer] or of messages.
        reader: reads messages.

    Raises:
        RowRejected: `wrong_type`; `conflicting_columns` (the prompt itself has several turns).

    >>> turns = with_history([Message("user", ("And 3 + 3?",))], [["2 + 2?", "4"]], reader=MessageReader())
    >>> [(turn.role, turn.text) for turn in turns]
    [('user', '2 + 2?'), ('assistant', '4'), ('user', 'And 3 + 3?')]
    """
    if not isinstance(history, list):
        detail = f"`history` is {shown(history)}; a list of [question, answer] or of messages is needed"
        raise ColumnRejected("wrong_type", f"{detail}; correct the row, or leave it unread", columns=("history",))
    systems = [message for message in messages if message.role == "system"]
    own = [message for message in messages if message.role != "system"]
    if len(own) != 1:
        detail = f"the row has `history` and a prompt with {len(own)} turns; give the earlier turns in one of the two"
        raise RowRejected("conflicting_columns", detail)
    earlier: list[Message] = []
    for place, item in enumerate(history):
        earlier += _history_messages(item, place=place, reader=reader)
    return [*systems, *earlier, *own]


def _history_messages(item: object, *, place: int, reader: MessageReader) -> list[Message]:
    """Read the item with index `place` of the column `history`: [question, answer] or a message."""
    if not isinstance(item, list):
        return reader.read([item], column="history")
    if len(item) != 2 or not all(isinstance(text, str) for text in item):
        raise RowRejected("wrong_type", f"`history[{place}]` is {shown(item)}; [question, answer] is needed")
    question, answer = item
    return [Message("user", (question,)), Message("assistant", (answer,))]


def with_system(messages: list[Message], system: object) -> list[Message]:
    """Insert the text of the column `system` as the first turn of the prompt.

    Raises:
        RowRejected: `wrong_type`; `conflicting_columns` (the prompt begins with another system turn).

    >>> [message.role for message in with_system([Message("user", ("Hi",))], "Be brief.")]
    ['system', 'user']
    """
    if not isinstance(system, str):
        raise RowRejected("wrong_type", f"`system` is {shown(system)}; a text is needed")
    turn = Message("system", (system,))
    if messages[0].role != "system":
        return [turn, *messages]
    if messages[0] != turn:
        detail = f"`system` is {shown(system)}, and the prompt begins with another system turn; give one of them"
        raise RowRejected("conflicting_columns", detail)
    return messages


def place_images(
    messages: Sequence[Message], images: Sequence[Any] | None, *, mark: str | None, subject: str = "the prompt"
) -> tuple[tuple[Turn, ...], list[Any]]:
    """Convert messages to turns in which every image has a place.

    Image places are the image parts and each mark in a string. If there are no image parts and the row has an image
    column, marks in text parts are places as well. Beside the mark `<image>`, the numbered marks `<image_1>`,
    `<image 1>` and `<|image_1|>` are places, of the image with that number. If there are no places at all, the images
    go to the start of the first user turn.

    Args:
        messages: the messages of the prompt.
        images: the image column of the row; None if it has none.
        mark: the text that stands for an image; None: no text does.
        subject: what the messages are, for error messages.

    Returns:
        The turns, and the references of the images in the order of their places.

    Raises:
        RowRejected: `image_count` (the numbers of places and images differ); `conflicting_columns` (images are both in
            the messages and in the image column).

    >>> turns, references = place_images([Message("user", ("What is this?",))], ["cat.png"], mark="<image>")
    >>> [part.text for part in turns[0].parts], references
    ([None, 'What is this?'], ['cat.png'])
    """
    image_parts = _image_parts(messages)
    references = _references(image_parts, images, subject=subject)
    # Content in parts has image parts for its images, so a mark in a text part is literal text.
    mark_in_parts = None if image_parts or images is None else mark
    if not image_parts:
        messages, references = with_numbered_marks(messages, references, mark=mark, typed=images is not None)
    turns = [_turn(message, mark=mark_in_parts if message.typed else mark) for message in messages]
    num_places = _count_images(turns)
    if references and not num_places:
        turns = _with_leading_images(turns, count=len(references))
    elif num_places != len(references):
        raise _wrong_count(num_places, len(references), mark=None if image_parts else mark, subject=subject)
    return tuple(turns), references


def place_videos(messages: Sequence[Message], videos: Sequence[Any]) -> tuple[list[Message], list[Any]]:
    """Give every video of a row a place in its messages.

    Places are the video parts, and, if there are none and the row has a video column, each mark `<video>`. Without a
    column the mark is text, because it is also a tag of HTML. If there are no places at all, the videos go to the start
    of the first user turn.

    Args:
        messages: the messages of the prompt.
        videos: the video column of the row; empty if it has none.

    Returns:
        The messages with a video part at every place, and the references of the videos in the order of their places.

    Raises:
        RowRejected: `video_count` (the numbers of places and videos differ); `conflicting_columns` (videos are both in
            the messages and in the video column).

    >>> messages, references = place_videos([Message("user", ("Who wins? <video>",))], ["race.mp4"])
    >>> messages[0].parts, references
    (('Who wins? ', VideoPart(video=None)), ['race.mp4'])
    """
    parts = _video_parts(messages)
    placed = list(messages) if parts or not videos else [_with_video_parts(message) for message in messages]
    num_places = len(_video_parts(placed))
    if videos and not num_places:
        return _with_leading_videos(messages, count=len(videos)), list(videos)
    references = _video_references(parts, videos)
    if num_places != len(references):
        places, rows = format_count(num_places, "video place"), format_count(len(references), "video")
        raise RowRejected("video_count", f"the prompt has {places}, and the row has {rows}")
    return placed, references


def _video_references(parts: Sequence[VideoPart], videos: Sequence[Any]) -> list[Any]:
    """Return the video references of a row, which are in its video parts or in its video column.

    Raises:
        RowRejected: `conflicting_columns` (they are in both).
    """
    inline = [part.video for part in parts if part.video is not None]
    if inline and videos:
        detail = "videos are both in the parts of the prompt and in `videos`; give them in one of the two"
        raise RowRejected("conflicting_columns", detail)
    return inline or list(videos)


def _video_parts(messages: Sequence[Message]) -> list[VideoPart]:
    """List the video parts of all messages, in order."""
    return list(itertools.chain.from_iterable(message.video_parts for message in messages))


def _with_video_parts(message: Message) -> Message:
    """Replace each mark of a video in the texts of a message by a video part."""
    parts: list[MessagePart] = []
    for part in message.parts:
        if not isinstance(part, str):
            parts.append(part)
            continue
        for i, text in enumerate(part.split(VIDEO_MARK)):
            if i:
                parts.append(VideoPart())
            if text:
                parts.append(text)
    return Message(message.role, tuple(parts), typed=message.typed)


def _with_leading_videos(messages: Sequence[Message], *, count: int) -> list[Message]:
    """Put video parts at the start of the first user turn, before its text."""
    first = next(i for i, message in enumerate(messages) if message.role == "user")
    message = messages[first]
    with_videos = Message("user", (VideoPart(),) * count + message.parts, typed=message.typed)
    return [*messages[:first], with_videos, *messages[first + 1 :]]


def in_place_order(turns: Sequence[Turn], images: Sequence[Any], videos: Sequence[Any]) -> list[Any]:
    """Join the images and videos of a prompt in the order of their places.

    >>> in_place_order([Turn("user", (VIDEO, IMAGE, VIDEO))], ["cat.png"], ["a.mp4", "b.mp4"])
    ['a.mp4', 'cat.png', 'b.mp4']
    """
    next_image, next_video = iter(images), iter(videos)
    ordered: list[Any] = []
    for turn in turns:
        for part in turn.parts:
            if part.is_visual:
                ordered.append(next(next_video if part.is_video else next_image))
    return ordered


def _image_parts(messages: Sequence[Message]) -> list[ImagePart]:
    """List the image parts of all messages, in order."""
    return list(itertools.chain.from_iterable(message.image_parts for message in messages))


def _references(image_parts: Sequence[ImagePart], images: Sequence[Any] | None, *, subject: str) -> list[Any]:
    """Return the image references of a row, which are in its image parts or in its image column.

    Raises:
        RowRejected: `conflicting_columns` (they are in both).
    """
    inline = [part.image for part in image_parts if part.image is not None]
    if inline and images:
        detail = f"images are both in the parts of {subject} and in a column of images; give them in one of the two"
        raise RowRejected("conflicting_columns", detail)
    return list(inline or images or [])


def _with_leading_images(turns: Sequence[Turn], *, count: int) -> list[Turn]:
    """Put image places at the start of the first user turn, before its text."""
    first = next(i for i, turn in enumerate(turns) if turn.role == "user")
    with_images = Turn("user", (IMAGE,) * count + turns[first].parts)
    return [*turns[:first], with_images, *turns[first + 1 :]]


def _wrong_count(num_places: int, num_images: int, *, mark: str | None, subject: str) -> RowRejected:
    """Make the rejection of a row with more or fewer places than images."""
    detail = (
        f"{subject} has {format_count(num_places, 'image place')}, and the row has {format_count(num_images, 'image')}"
    )
    # In a row without any images, the marks are probably meant literally.
    return RowRejected("image_count", detail + ("" if num_images or mark is None else _literal_mark_hint(mark)))


def _literal_mark_hint(mark: str | None) -> str:
    """Explain how to write a mark that does not stand for an image."""
    text_part = '{"type": "text", "text": ...}'
    return f"; if {mark} is part of the text, give the content as parts, {text_part}, or set image_mark: null"


def _count_images(turns: Sequence[Turn]) -> int:
    return sum(turn.parts.count(IMAGE) for turn in turns)


def check_not_empty(turns: Sequence[Turn]) -> None:
    """Check that a prompt has an image, a video or visible text.

    Raises:
        RowRejected: `empty_prompt`.

    >>> check_not_empty([Turn("user", (IMAGE,))])
    """
    if all(map(_is_empty_turn, turns)):
        raise RowRejected("empty_prompt", "the prompt is empty: it has neither text nor images")


def _is_empty_turn(turn: Turn) -> bool:
    return not any(part.is_visual or not is_blank(part.text or "") for part in turn.parts)


def _turn(message: Message, *, mark: str | None) -> Turn:
    """Convert a message to a turn; each mark in its texts becomes an image place."""
    parts: list[Part] = []
    for part in message.parts:
        if not isinstance(part, str):
            parts.append(IMAGE if isinstance(part, ImagePart) else VIDEO)
            continue
        for i, text in enumerate(part.split(mark) if mark else [part]):
            if i:
                parts.append(IMAGE)
            if text:
                parts.append(Part(text))
    return Turn(cast("Literal['system', 'user', 'assistant']", message.role), tuple(parts))
