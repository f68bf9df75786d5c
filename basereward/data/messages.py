"""Chat messages as rows hold them -> turns, with a place for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from basereward.data.group import IMAGE, Part, Turn
from basereward.data.screening import RowLost
from basereward.data.text import is_blank
from basereward.errors import unknown

ROLES = ("system", "user", "assistant")
PLACE = "<image>"  # in a string: the place of the next image of the row


@dataclass(frozen=True, slots=True)
class ImagePart:
    """A part `{"type": "image"}` of a message, with its image when it carries one itself."""

    image: Any = None


@dataclass(frozen=True, slots=True)
class Message:
    """One checked message. Whether its content was a string or a list of parts makes no difference from here on."""

    role: str
    parts: tuple[str | ImagePart, ...]

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def image_parts(self) -> list[ImagePart]:
        return [part for part in self.parts if isinstance(part, ImagePart)]


def read_messages(value: object, *, column: str) -> list[Message]:
    """A string (one user turn) or a list of `{"role", "content"}`.

    >>> read_messages("Hello", column="prompt")
    [Message(role='user', parts=('Hello',))]

    Raises:
        RowLost: it is neither; the message names column and place.
    """
    if isinstance(value, str):
        return [Message("user", (value,))]
    if not isinstance(value, list):
        raise RowLost("wrong_type", f"`{column}` is {shown(value)}; a string or a list of messages is needed")
    return [_read_message(message, where=f"`{column}[{i}]`") for i, message in enumerate(value)]


def _read_message(message: object, *, where: str) -> Message:
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise RowLost("bad_message", f'{where} is {shown(message)}; a message is {{"role": ..., "content": ...}}')
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise RowLost("unknown_role", f"{where}: {unknown('role', str(role)[:60], ROLES)}")
    if isinstance(content, str):
        return Message(role, (content,))
    if not isinstance(content, list):
        raise RowLost("wrong_type", f"{where}: content is {shown(content)}; a string or a list of parts is needed")
    return Message(role, tuple(_read_part(part, where=f"{where}: part {i}") for i, part in enumerate(content)))


def _read_part(part: object, *, where: str) -> str | ImagePart:
    if not isinstance(part, Mapping) or "type" not in part:
        detail = f'{where} is {shown(part)}; a part is {{"type": "text", "text": ...}} or {{"type": "image"}}'
        raise RowLost("bad_message", detail)
    kind = part["type"]
    if kind not in ("text", "image"):
        raise RowLost("unknown_part", f"{where}: {unknown('type', str(kind)[:60], ('text', 'image'))}")
    # Parquet fills the keys that a part does not have with null.
    extra = [key for key, value in part.items() if key not in ("type", kind) and value is not None]
    if extra:
        detail = unknown(f"key of a part of type {kind}", str(extra[0])[:60], ("type", kind))
        raise RowLost("unknown_part", f"{where}: {detail}")
    if kind == "image":
        return ImagePart(part.get("image"))
    if not isinstance(part.get("text"), str):
        raise RowLost("wrong_type", f"{where}: text is {shown(part.get('text'))}; a string is needed")
    return cast("str", part["text"])


def read_response(value: object, *, column: str) -> tuple[list[Message], str]:
    """A response: a string, or messages of which the last, the assistant's, is the response and the others the prompt.

    Returns:
        The messages before the response, and the response's text.

    Raises:
        RowLost: it is neither, or the response holds an image.
    """
    if isinstance(value, str):
        return [], value
    if value is None:
        raise RowLost("null_response", f"`{column}` is null; a response is a text")
    if not isinstance(value, list) or not value:
        raise RowLost("wrong_type", f"`{column}` is {shown(value)}; a response is a string or a list of messages")
    messages = read_messages(value, column=column)
    *before, last = messages
    if last.role != "assistant":
        raise RowLost(
            "bad_turns",
            f"`{column}` ends with a turn of the {last.role}; its last turn is the response, the assistant's",
        )
    if last.image_parts:
        raise RowLost("image_in_response", f"`{column}`: a response holds an image; responses are text")
    return before, last.text


def join_prompt(prompt: list[Message] | None, before: Sequence[list[Message]]) -> list[Message]:
    """The prompt of a row, from its column `prompt` and the messages that stand before its responses.

    Raises:
        RowLost: there is none, or they differ.
    """
    leading = before[0]
    if any(messages != leading for messages in before[1:]):
        raise RowLost(
            "prompts_differ",
            "the responses have different turns before their last; one prompt with several responses is needed",
        )
    if not prompt:
        prompt = leading
    elif leading and leading != prompt:
        # A `prompt` that is only the last of the turns, beside responses that hold all of them.
        if leading[-len(prompt) :] != prompt:
            detail = "the turns before the responses differ from `prompt`; leave them out of one of the two"
            raise RowLost("prompts_differ", detail)
        prompt = leading
    if not prompt:
        raise RowLost("no_prompt", "there is no prompt: no column `prompt`, and no turn before the responses")
    if prompt[-1].role != "user":
        detail = f"the prompt ends with a turn of the {prompt[-1].role}; its last turn must be the user's"
        raise RowLost("bad_turns", detail)
    return prompt


def place_images(messages: Sequence[Message], images: Sequence[Any] | None) -> tuple[tuple[Turn, ...], list[Any]]:
    """Turns in which every image has its place, and the images in that order.

    Places are the parts of type image; or, when there are none and the row has a list of images (`images` is not None),
    each "<image>" in a text; or, when there are none of these either, the start of the first turn of the user.

    Raises:
        RowLost: there are more places than images, or fewer; or some images stand in the parts and some in `images`.
    """
    image_parts = [part for message in messages for part in message.image_parts]
    carried = [part.image for part in image_parts if part.image is not None]
    if carried and images:
        detail = "images stand both in the parts of the prompt and in `images`; give them in one of the two"
        raise RowLost("conflicting_columns", detail)
    found = list(carried or images or [])
    mark = not image_parts and images is not None
    turns = [_to_turn(message, mark=mark) for message in messages]
    num_places = sum(part.is_image for turn in turns for part in turn.parts)
    if found and not num_places:
        first = next(i for i, turn in enumerate(turns) if turn.role == "user")
        turns[first] = Turn("user", (IMAGE,) * len(found) + turns[first].parts)
    elif num_places != len(found):
        raise RowLost("image_count", f"the prompt has {num_places} image places, and the row has {len(found)} images")
    if not any(part.is_image or not is_blank(part.text or "") for turn in turns for part in turn.parts):
        raise RowLost("empty_prompt", "the prompt is empty: it has neither text nor images")
    return tuple(turns), found


def _to_turn(message: Message, *, mark: bool) -> Turn:
    parts: list[Part] = []
    for part in message.parts:
        if isinstance(part, ImagePart):
            parts.append(IMAGE)
            continue
        for i, text in enumerate(part.split(PLACE) if mark else [part]):
            parts.extend([IMAGE] if i else [])
            parts.extend([Part(text)] if text else [])
    return Turn(cast("Literal['system', 'user', 'assistant']", message.role), tuple(parts))


def shown(value: object) -> str:
    """A value for a message: short, with its type.

    >>> shown([1, 2])
    '[1, 2] (list)'
    """
    try:
        text = repr(value)
    except RecursionError:
        text = "nested too deeply to be shown"
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
