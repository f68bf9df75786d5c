"""Reads chat messages: `{"role", "content"}` or `{"from", "value"}`, with images and videos in parts.

The images of a message may also be in a key of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from basereward.data.images.array_images import image_of_array, is_array
from basereward.data.python_text import parse_python
from basereward.data.readers.json_lines import decode_json
from basereward.data.schema.rejections import RowRejected
from basereward.errors import format_count, unknown

ROLES = ("system", "user", "assistant")
# The role of each speaker in ShareGPT's `from`, which has no fixed vocabulary.
SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "assistant": "assistant",
}
# The keys of a message in the formats of OpenAI, ShareGPT and ColossalChat.
FORMS = (("role", "content"), ("from", "value"), ("from", "content"))
# In a string: the place of the next image of the row.
PLACE = "<image>"
# An image in the middle of a text, the format of Qwen-VL. HTML's tag has no end.
NAMED_IMAGE = re.compile(r"<img>([^<>]+)</img>")
# Keys of a message with its images.
IMAGE_KEYS = ("images", "image")
# Type of a part -> the keys that may contain its text or its image. OpenAI's API uses `image_url`, the chat templates
# of `transformers` the four keys of `image`.
PART_KEYS = {
    "text": ("text",),
    "image": ("image", "url", "path", "base64"),
    "image_url": ("image_url",),
    # As those of images; `video` may also be a list of frames. vLLM extends OpenAI's API by `video_url`.
    "video": ("video", "url", "path", "base64", "fps"),
    "video_url": ("video_url",),
}

# Keys of messages that do not change the conversation. They are reported like unread columns. Any other unread key
# rejects the row, because it may be part of the conversation (`tool_calls`, `thinking`, `name`, ...).
METADATA = frozenset(
    {
        "id", "_id", "uuid", "msg_id", "message_id", "parent_id", "conversation_id", "turn_id", "turn_identifier",
        "openai_id", "user_id", "turn", "index", "idx", "date", "time", "timestamp", "create_time", "created_at",
        "update_time", "updated_at", "lang", "language", "country", "state", "hashed_ip", "header", "model",
        "model_name", "token_count", "num_tokens", "weight", "loss", "loss_weight", "train", "redacted", "toxic",
    }
)  # fmt: skip

JSON_MESSAGES = re.compile(r'\s*(?:\[\s*)?\{\s*"(?:role|content|from|value)"\s*:')
JSON_PARTS = re.compile(r'\s*\[\s*\{\s*"(?:type|text|image|image_url|video|video_url)"\s*:')
PYTHON_MESSAGES = re.compile(r"\s*(?:array\(\s*)?(?:\[\s*)?\{\s*'(?:role|content|from|value|type)'\s*:")
# The same for messages in which another key (`id`, `turn`) comes first.
JSON_OBJECTS = re.compile(r'\s*(?:\[\s*)?\{\s*"')
JSON_KEYS = (re.compile(r'"(?:role|from)"\s*:'), re.compile(r'"(?:content|value)"\s*:'))
PYTHON_OBJECTS = re.compile(r"\s*(?:array\(\s*)?\[\s*\{\s*'\w+'\s*:")
PYTHON_KEYS = (re.compile(r"'(?:role|from)'\s*:"), re.compile(r"'(?:content|value)'\s*:"))


@dataclass(frozen=True, slots=True)
class ImagePart:
    """The place of an image in a message; `image` is its reference if the message contains it.

    >>> ImagePart(), ImagePart("cat.png")
    (ImagePart(image=None), ImagePart(image='cat.png'))
    """

    image: Any = None


@dataclass(frozen=True, slots=True)
class VideoPart:
    """The place of a video in a message; `video` is its reference if the message contains it.

    >>> VideoPart("cat.mp4")
    VideoPart(video='cat.mp4')
    """

    video: Any = None


MessagePart: TypeAlias = "str | ImagePart | VideoPart"


@dataclass(frozen=True, slots=True)
class Message:
    """One validated message. Content as a string equals content with one text part of the same text.

    Attributes:
        role: `system`, `user` or `assistant`.
        parts: the texts and the places of images and videos, in order.
        typed: whether the content is a list of parts.

    >>> message = Message("user", (ImagePart(), "What is ", "this?"))
    >>> message.text, len(message.image_parts)
    ('What is this?', 1)
    """

    role: str
    parts: tuple[MessagePart, ...]
    typed: bool = field(default=False, compare=False)

    @property
    def text(self) -> str:
        """All text parts together."""
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def image_parts(self) -> list[ImagePart]:
        """The image parts in order."""
        return [part for part in self.parts if isinstance(part, ImagePart)]

    @property
    def video_parts(self) -> list[VideoPart]:
        """The video parts in order."""
        return [part for part in self.parts if isinstance(part, VideoPart)]


class MessageReader:
    """Reads messages and records their unread keys.

    Args:
        mark: the text in a string that stands for the next image; None: no text does.
        json_text: whether a string may be the JSON text of messages, as in CSV files.

    Attributes:
        unread: keys of metadata that were not read, such as `prompt[].timestamp`.
        literal: columns with JSON of no known shape, which was read as text.
    """

    def __init__(self, *, mark: str | None = PLACE, json_text: bool = False) -> None:
        self.mark = mark
        self.json_text = json_text
        self.unread: set[str] = set()
        self.literal: set[str] = set()

    def read(self, value: object, *, column: str) -> list[Message]:
        """Read a string (one user turn), a message or a list of messages.

        Raises:
            RowRejected: the value is none of these; the detail contains the column and the index.

        >>> MessageReader().read("Hello", column="prompt")
        [Message(role='user', parts=('Hello',), typed=False)]
        >>> [message.role for message in MessageReader().read([{"from": "gpt", "value": "Hi"}], column="prompt")]
        ['assistant']
        """
        value = self._decoded(value, column=column)
        if isinstance(value, str):
            return [Message("user", self._text_parts(value))]
        if _is_content(value):
            value = [{"role": "user", "content": value}]
        if not isinstance(value, list):
            raise RowRejected("wrong_type", f"`{column}` is {shown(value)}; a string or a list of messages is needed")
        return [self._message(message, column=column, place=place) for place, message in enumerate(value)]

    def response(self, value: object, *, column: str) -> tuple[list[Message], Message]:
        """Read a response: a string, a message, or a list of messages that ends with the response.

        Returns:
            The messages before the response, and the response.

        Raises:
            RowRejected: the value is none of these.
        """
        value = self._decoded(value, column=column)
        if isinstance(value, str):
            return [], Message("assistant", (value,))
        if value is None:
            raise RowRejected("null_response", f"`{column}` is null; a response must be a text")
        if _is_content(value):
            value = [{"role": "assistant", "content": value}]
        if not isinstance(value, list) or not value:
            raise RowRejected(
                "wrong_type", f"`{column}` is {shown(value)}; a response must be a string or a list of messages"
            )
        *before, last = self.read(value, column=column)
        if last.role != "assistant":
            raise RowRejected(
                "bad_turns",
                f"`{column}` ends with a turn of the {last.role}; its last turn must be the response of the assistant",
            )
        if last.video_parts:
            raise RowRejected("video", f"`{column}`: the response contains a video; responses are texts and images")
        return before, last

    def _decoded(self, value: object, *, column: str) -> object:
        """Convert one message, or the JSON text of messages, to a list; any other value is returned as it is."""
        if isinstance(value, str) and self.json_text:
            text = value
            value = _messages_in(text, column=column)
            if value is text and _is_json_object(text):
                self.literal.add(column.partition("[")[0])
        return [value] if isinstance(value, Mapping) and _form(value) else value

    def _message(self, message: object, *, column: str, place: int) -> Message:
        """Read the message with index `place` of a column."""
        where = f"`{column}[{place}]`"
        keys = _form(message)
        if not isinstance(message, Mapping) or keys is None:
            raise RowRejected(
                "bad_message", f'{where} is {shown(message)}; a message is {{"role": ..., "content": ...}}'
            )
        self._check_keys(message, known=(*keys, *IMAGE_KEYS), column=column, where=where)
        role = _role(message[keys[0]], key=keys[0], where=where)
        content = message[keys[1]]
        if isinstance(content, list):
            parts = tuple(_part(part, where=f"{where}: part {i}") for i, part in enumerate(content))
        elif isinstance(content, str):
            parts = self._text_parts(content)
        else:
            detail = f"{where}: {keys[1]} is {shown(content)}; a string or a list of parts is needed"
            raise RowRejected("wrong_type", detail)
        images = [*_listed(message.get("images")), *_listed(message.get("image"))]
        images = [_decoded_image(image, name=f"{where}: images[{i}]") for i, image in enumerate(images)]
        if images:
            parts = self._with_images(parts, images, where=where)
        return Message(role, parts, typed=isinstance(content, list))

    def _text_parts(self, text: str) -> tuple[MessagePart, ...]:
        """Split a text at the images that it names, as `<img>cat.png</img>`."""
        if self.mark is None or "<img>" not in text:
            return (text,)
        # The pattern has one group, so every second piece is a name.
        pieces = NAMED_IMAGE.split(text)
        parts: list[MessagePart] = []
        for number, piece in enumerate(pieces):
            if number % 2:
                parts.append(ImagePart(piece.strip()))
            elif piece:
                parts.append(piece)
        return tuple(parts)

    def _check_keys(self, message: Mapping[str, Any], *, known: Collection[str], column: str, where: str) -> None:
        for key, value in message.items():
            # Parquet gives every message all keys, with null for those that it does not have.
            if key in known or is_empty(value):
                continue
            if key not in METADATA:
                raise RowRejected(
                    "unknown_key",
                    f"{where}: the key '{str(key)[:60]}' is not read and may change the conversation; write it into "
                    f"the content, or remove it from the rows. Keys of a message that are read: {', '.join(known)}",
                )
            self.unread.add(f"{column.partition('[')[0]}[].{key}")

    def _with_images(self, parts: tuple[MessagePart, ...], images: list[Any], *, where: str) -> tuple[MessagePart, ...]:
        """Put a message's images in place of its image parts or marks, or at its beginning if it has neither."""
        if any(isinstance(part, ImagePart) and part.image is not None for part in parts):
            raise RowRejected("conflicting_columns", f"{where}: images are both in its parts and in its key `images`")
        # Image parts are unambiguous. Next to them, a mark in a text is literal.
        if self.mark and not _count_places(parts):
            parts = _split(parts, self.mark)
        num_places = _count_places(parts)
        if not num_places:
            return (*map(ImagePart, images), *parts)
        if num_places != len(images):
            raise RowRejected(
                "image_count",
                f"{where} has {format_count(num_places, 'image place')} and {format_count(len(images), 'image')}",
            )
        next_images = iter(images)
        return tuple(ImagePart(next(next_images)) if isinstance(part, ImagePart) else part for part in parts)


def _count_places(parts: Sequence[MessagePart]) -> int:
    """Count the image parts."""
    return sum(isinstance(part, ImagePart) for part in parts)


def _split(parts: tuple[MessagePart, ...], mark: str) -> tuple[MessagePart, ...]:
    """Replace each mark in a text by an image part."""
    split: list[MessagePart] = []
    for part in parts:
        if not isinstance(part, str):
            split.append(part)
            continue
        for i, text in enumerate(part.split(mark)):
            if i:
                split.append(ImagePart())
            if text:
                split.append(text)
    return tuple(split)


def _messages_in(text: str, *, column: str) -> object:
    """Parse a text that is JSON, or Python's notation, of messages or parts; any other text is returned as it is.

    Raises:
        RowRejected: `python_text` (Python objects that are no literals); `malformed_json` (truncated JSON of messages).
    """
    if _is_python(text):
        return _python_messages(text, column=column)
    begins_as_messages = JSON_MESSAGES.match(text) is not None
    if not begins_as_messages and not JSON_PARTS.match(text) and not _has(text, JSON_OBJECTS, JSON_KEYS):
        return text
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        # A prompt may contain JSON, as a question about it does. Such a text is kept unless it begins with a message.
        if not begins_as_messages:
            return text
        detail = f"`{column}` begins like JSON of messages but is invalid: {error.msg}, character {error.pos + 1}"
        raise RowRejected("malformed_json", detail) from None
    except (RecursionError, ValueError):
        # `decode_json` reports the fault.
        pass
    return _if_messages(decode_json(text.strip()), text=text)


def _if_messages(value: object, *, text: str) -> object:
    """Return a parsed value if it is messages or parts of one, else the text."""
    messages = value if isinstance(value, list) else [value]
    return messages if all(_form(message) for message in messages) or _is_content(value) else text


def _is_python(text: str) -> bool:
    """Whether a text seems to be messages in the notation of Python, as pandas writes them into CSV files."""
    return PYTHON_MESSAGES.match(text) is not None or _has(text, PYTHON_OBJECTS, PYTHON_KEYS)


def _python_messages(text: str, *, column: str) -> object:
    """Parse messages in Python's notation.

    Raises:
        RowRejected: `python_text` (the text has more than literals, such as arrays of numpy).
    """
    value = parse_python(text.strip())
    messages = value if isinstance(value, str) else _if_messages(value, text=text)
    if isinstance(messages, str):
        raise RowRejected(
            "python_text",
            f"`{column}` is {shown(text)}: messages in Python's notation that cannot be parsed; write them as JSON "
            "(json.dumps), with double quotation marks",
        )
    return messages


def _is_content(value: object) -> bool:
    """Whether a value is the content of a message: a list of parts."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(part, Mapping) and part.get("type") in PART_KEYS and not _form(part) for part in value)


def _is_json_object(text: str) -> bool:
    """Whether a text is a JSON object or a list of them."""
    if not JSON_OBJECTS.match(text):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _has(text: str, beginning: re.Pattern[str], keys: Collection[re.Pattern[str]]) -> bool:
    """Whether a text begins like JSON or Python objects and contains all keys."""
    return beginning.match(text) is not None and all(key.search(text) for key in keys)


def _form(message: object) -> tuple[str, str] | None:
    """Return the keys of a message's role and content; None if it is not a message."""
    if not isinstance(message, Mapping):
        return None
    for role_key, content_key in FORMS:
        if role_key in message and content_key in message:
            return role_key, content_key
    return None


def _role(value: object, *, key: str, where: str) -> str:
    """Convert the value of `role` or `from` to a role."""
    known = ROLES if key == "role" else tuple(SPEAKERS)
    if not isinstance(value, str) or value not in known:
        hint = " Tool calls and their results are not read." if value in ("tool", "function", "observation") else ""
        raise RowRejected("unknown_role", f"{where}: {unknown(key, str(value)[:60], known)}{hint}")
    return SPEAKERS[value]


def _part(part: object, *, where: str) -> MessagePart:
    """Read one part of a message: a text part as its text, others as the place of an image or a video.

    Raises:
        RowRejected: `bad_message`, `unknown_part`, `wrong_type` or `conflicting_columns`.
    """
    if not isinstance(part, Mapping) or "type" not in part:
        detail = f'{where} is {shown(part)}; a part is {{"type": "text", "text": ...}} or {{"type": "image"}}'
        raise RowRejected("bad_message", detail)
    kind = part["type"]
    if not isinstance(kind, str) or kind not in PART_KEYS:
        raise RowRejected("unknown_part", f"{where}: {unknown('type', str(kind)[:60], PART_KEYS)}")
    cells = _part_cells(part, kind=kind, where=where)
    if kind in ("video", "video_url"):
        return _video_part(part, cells, where=where)
    if kind != "text":
        return _image_part(part, cells, where=where)
    text = part.get("text")
    if not isinstance(text, str):
        raise RowRejected("wrong_type", f"{where}: text is {shown(text)}; a string is needed")
    return text


def _part_cells(part: Mapping[Any, Any], *, kind: str, where: str) -> dict[str, Any]:
    """Return the values of a part that are not empty, by key.

    Raises:
        RowRejected: `unknown_part` (a key that parts of this type do not have).
    """
    cells = {}
    for key, value in part.items():
        # Parquet fills the keys that a part does not have with null.
        if key == "type" or is_empty(value):
            continue
        if key not in PART_KEYS[kind]:
            detail = unknown(f"key of a part of type {kind}", str(key)[:60], ("type", *PART_KEYS[kind]))
            raise RowRejected("unknown_part", f"{where}: {detail}")
        cells[key] = value
    return cells


def _image_part(part: Mapping[Any, Any], cells: Mapping[str, Any], *, where: str) -> ImagePart:
    """Read an image part from its cells that are not empty; it has none if the image is in the row's `images`."""
    if len(cells) > 1:
        raise RowRejected("conflicting_columns", f"{where}: an image is given by {' and by '.join(cells)}; give one")
    if cells:
        [(key, value)] = cells.items()
        return ImagePart(_reference(value, key=key, where=where))
    if part["type"] == "image_url":
        raise RowRejected("unknown_part", f"{where}: image_url is {shown(part.get('image_url'))}; a URL is needed")
    return ImagePart()


def _video_part(part: Mapping[Any, Any], cells: dict[str, Any], *, where: str) -> VideoPart:
    """Read a video part from its cells that are not empty; it has none if the video is in the row's `videos`."""
    fps = cells.pop("fps", None)
    if len(cells) > 1:
        raise RowRejected("conflicting_columns", f"{where}: a video is given by {' and by '.join(cells)}; give one")
    if not cells:
        if part["type"] == "video_url" or fps is not None:
            raise RowRejected("unknown_part", f"{where} is {shown(dict(part))}; a video is needed")
        return VideoPart()
    [(key, value)] = cells.items()
    if key == "base64":
        value = {"bytes": value}
    if key == "video_url":
        value = _video_address(value, where=where)
    # The frames per second belong to the frames, and a file states its own; `find_video` checks both.
    return VideoPart(value if fps is None else {"video": value, "fps": fps})


def _video_address(value: object, *, where: str) -> object:
    """Return the address of a video in the form of vLLM: itself, or an object with it."""
    if not isinstance(value, Mapping):
        return value
    if set(value) != {"url"} or not isinstance(value["url"], str):
        detail = f'{where}: video_url is {shown(value)}; a string or {{"url": ...}} is needed'
        raise RowRejected("unknown_part", detail)
    return value["url"]


def _reference(value: object, *, key: str, where: str) -> object:
    """Convert the image of an image part to a reference as in a row's `images`."""
    if key == "base64":
        return {"bytes": value}
    if key != "image_url" or not isinstance(value, Mapping):
        return _decoded_image(value, name=f"{where}: {key}")
    extra = [name for name, inner in value.items() if name not in ("url", "detail") and not is_empty(inner)]
    if extra or not isinstance(value.get("url"), str):
        detail = f'{where}: image_url is {shown(value)}; a string or {{"url": ...}} is needed'
        raise RowRejected("unknown_part", detail)
    return value["url"]


def _decoded_image(image: object, *, name: str) -> object:
    """Convert an array to a PIL image. Messages are compared with each other, and arrays have no single truth value."""
    return image_of_array(image, name=name) if is_array(image) else image


def _listed(value: Any) -> list[Any]:
    """Return the images of a message's key `images` or `image` as a list."""
    if is_empty(value):
        return []
    return value if isinstance(value, list) else [value]


def is_empty(value: object) -> bool:
    """Whether a value is null, false, or an empty text, list or object.

    >>> [is_empty(value) for value in (None, "", [], {}, False, 0, " ", [None])]
    [True, True, True, True, True, False, False, False]
    """
    return value is None or value is False or (isinstance(value, str | bytes | list | Mapping) and len(value) == 0)


def shown(value: object) -> str:
    """Format a value for a message: shortened, with its type.

    >>> shown([1, 2])
    '[1, 2] (list)'
    """
    try:
        text = repr(value)
    except RecursionError:
        text = "nested too deeply to be shown"
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
