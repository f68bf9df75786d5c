"""The prompt of a row: its messages from all columns that hold some, and a place in it for each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

from basereward.data.schema.group import IMAGE, Part, Turn
from basereward.data.schema.messages import ImagePart, Message, MessageReader, shown
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.text import is_blank


def join_prompt(prompt: list[Message] | None, before: Sequence[list[Message]]) -> list[Message]:
    """The prompt, from a row's column `prompt` and the messages that stand before its responses.

    These may repeat the prompt and go on, go on from it with a turn of the assistant, or hold the whole conversation of
    which `prompt` is the end. No turn of either is lost. Empty: there is none.

    Raises:
        RowRejected: `prompts_differ`.
    """
    leading = before[0]
    if any(messages != leading for messages in before[1:]):
        raise RowRejected(
            "prompts_differ",
            "the responses have different turns before their last; one prompt with several responses is needed",
        )
    if not prompt or not leading:
        return prompt or leading
    if leading[: len(prompt)] == prompt:
        return leading
    if leading[0].role == "assistant" and prompt[-1].role == "user":
        return prompt + leading
    if leading[0].role != "assistant" and leading[-len(prompt) :] == prompt:
        return leading
    detail = "the turns before the responses differ from `prompt`; leave them out of one of the two"
    raise RowRejected("prompts_differ", detail)


def with_input(messages: list[Message], text: object) -> list[Message]:
    """The prompt with the text of the column `input` below its last turn, as Alpaca's rows are read.

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
    """The prompt with earlier turns before its own: pairs of question and answer, or messages.

    Raises:
        RowRejected: `wrong_type`; `conflicting_columns`, the prompt has several turns of its own.
    """
    if not isinstance(history, list):
        detail = f"`history` is {shown(history)}; a list of [question, answer] or of messages is needed"
        raise RowRejected("wrong_type", f"{detail}; `columns: {{history: null}}` leaves it unread")
    own = [message for message in messages if message.role != "system"]
    if len(own) != 1:
        detail = f"the row has `history`, and a prompt of {len(own)} turns; give the earlier turns in one of the two"
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
    """The prompt with the text of the column `system` as its first turn.

    Raises:
        RowRejected: `wrong_type`; `conflicting_columns`, the prompt begins with another system turn.
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
    """Turns in which every image has its place, and the images in that order.

    Places are the parts of type image and each mark in a string; or, when there are no such parts and the row has a
    column of images, each mark in a text part too; or, when there are none of these, the start of the first turn of the
    user.

    Args:
        images: of the row; None: it has no column of images.
        mark: the text that stands for an image; None: no text does.

    Raises:
        RowRejected: `image_count`, there are more places than images, or fewer; `conflicting_columns`, some images
            stand in the messages and some in `images`; `empty_prompt`.
    """
    image_parts = [part for message in messages for part in message.image_parts]
    carried = [part.image for part in image_parts if part.image is not None]
    if carried and images:
        detail = "images stand both in the parts of the prompt and in `images`; give them in one of the two"
        raise RowRejected("conflicting_columns", detail)
    found = list(carried or images or [])
    literal = bool(image_parts) or images is None  # what text parts say: typed content has image parts for its images
    turns = [_turn(message, mark=None if message.typed and literal else mark) for message in messages]
    num_places = sum(part.is_image for turn in turns for part in turn.parts)
    if found and not num_places:
        first = next(i for i, turn in enumerate(turns) if turn.role == "user")
        turns[first] = Turn("user", (IMAGE,) * len(found) + turns[first].parts)
    elif num_places != len(found):
        detail = f"the prompt has {num_places} image places, and the row has {len(found)} images"
        if not image_parts and not found:
            words = '{"type": "text", "text": ...}'
            detail += (
                f"; if {mark} is a word of the text, give the content as parts, {words}, or the source image_mark: null"
            )
        raise RowRejected("image_count", detail)
    if not any(part.is_image or not is_blank(part.text or "") for turn in turns for part in turn.parts):
        raise RowRejected("empty_prompt", "the prompt is empty: it has neither text nor images")
    return tuple(turns), found


def _turn(message: Message, *, mark: str | None) -> Turn:
    parts: list[Part] = []
    for part in message.parts:
        if isinstance(part, ImagePart):
            parts.append(IMAGE)
            continue
        for i, text in enumerate(part.split(mark) if mark else [part]):
            parts.extend([IMAGE] if i else [])
            parts.extend([Part(text)] if text else [])
    return Turn(cast("Literal['system', 'user', 'assistant']", message.role), tuple(parts))
