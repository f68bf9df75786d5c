"""Assembles the prompt of a row from its columns, and assigns a place in it to each image."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal, cast

from basereward.data.schema.group import IMAGE, Part, Turn
from basereward.data.schema.messages import ImagePart, Message, MessageReader, shown
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.text import is_blank


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
    leading = before[0]
    if any(messages != leading for messages in before[1:]):
        raise RowRejected(
            "prompts_differ",
            "the turns before the last one differ between the responses; all responses need the same prompt",
        )
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
    """
    if not isinstance(history, list):
        detail = f"`history` is {shown(history)}; a list of [question, answer] or of messages is needed"
        raise RowRejected("wrong_type", f"{detail}; `columns: {{history: null}}` leaves it unread")
    own = [message for message in messages if message.role != "system"]
    if len(own) != 1:
        detail = f"the row has `history` and a prompt with {len(own)} turns; give the earlier turns in one of the two"
        raise RowRejected("conflicting_columns", detail)
    earlier: list[Message] = []
    for place, turn in enumerate(history):
        if not isinstance(turn, list):
            earlier += reader.read([turn], column="history")
        elif len(turn) == 2 and all(isinstance(text, str) for text in turn):
            earlier += [Message("user", (turn[0],)), Message("assistant", (turn[1],))]
        else:
            raise RowRejected("wrong_type", f"`history[{place}]` is {shown(turn)}; [question, answer] is needed")
    systems = [message for message in messages if message.role == "system"]
    return [*systems, *earlier, *own]


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
    messages: Sequence[Message], images: Sequence[Any] | None, *, mark: str | None
) -> tuple[tuple[Turn, ...], list[Any]]:
    """Convert messages to turns in which every image has a place.

    Image places are the image parts and each mark in a string. If there are no image parts and the row has an image
    column, marks in text parts are places as well. If there are no places at all, the images go to the start of the
    first user turn.

    Args:
        messages: the messages of the prompt.
        images: the image column of the row; None if it has none.
        mark: the text that stands for an image; None: no text does.

    Returns:
        The turns, and the references of the images in the order of their places.

    Raises:
        RowRejected: `image_count` (the numbers of places and images differ); `conflicting_columns` (images are both in
            the messages and in the image column); `empty_prompt`.
    """
    image_parts = list(itertools.chain.from_iterable(message.image_parts for message in messages))
    inline = [part.image for part in image_parts if part.image is not None]
    if inline and images:
        detail = "images are both in the parts of the prompt and in `images`; give them in one of the two"
        raise RowRejected("conflicting_columns", detail)
    references = list(inline or images or [])
    # Content in parts has image parts for its images, so a mark in a text part is literal text.
    marks_are_text = bool(image_parts) or images is None
    turns = [_turn(message, mark=None if message.typed and marks_are_text else mark) for message in messages]
    num_places = _count_images(turns)
    if references and not num_places:
        first = next(i for i, turn in enumerate(turns) if turn.role == "user")
        turns[first] = Turn("user", (IMAGE,) * len(references) + turns[first].parts)
    elif num_places != len(references):
        detail = f"the prompt has {num_places} image places, and the row has {len(references)} images"
        if not image_parts and not references:
            detail += _literal_mark_hint(mark)
        raise RowRejected("image_count", detail)
    if all(_is_empty_turn(turn) for turn in turns):
        raise RowRejected("empty_prompt", "the prompt is empty: it has neither text nor images")
    return tuple(turns), references


def _literal_mark_hint(mark: str | None) -> str:
    text_part = '{"type": "text", "text": ...}'
    return f"; if {mark} is part of the text, give the content as parts, {text_part}, or set image_mark: null"


def _count_images(turns: Sequence[Turn]) -> int:
    return sum(part.is_image for part in itertools.chain.from_iterable(turn.parts for turn in turns))


def _is_empty_turn(turn: Turn) -> bool:
    return not any(part.is_image or not is_blank(part.text or "") for part in turn.parts)


def _turn(message: Message, *, mark: str | None) -> Turn:
    """Convert a message to a turn; each mark in its texts becomes an image place."""
    parts: list[Part] = []
    for part in message.parts:
        if isinstance(part, ImagePart):
            parts.append(IMAGE)
            continue
        for i, text in enumerate(part.split(mark) if mark else [part]):
            if i:
                parts.append(IMAGE)
            if text:
                parts.append(Part(text))
    return Turn(cast("Literal['system', 'user', 'assistant']", message.role), tuple(parts))
