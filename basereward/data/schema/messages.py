"""Reads chat messages: `{"role", "content"}` or `{"from", "value"}`, with images in parts or in a key of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from basereward.data.readers.json_lines import decode_json
from basereward.data.schema.rejections import RowRejected
from basereward.errors import unknown

ROLES = ("system", "user", "assistant")
SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "assistant": "assistant",
}
FORMS = (("role", "content"), ("from", "value"))  # the keys of a message in the formats of OpenAI and ShareGPT
PLACE = "<image>"  # in a string: the place of the next image of the row
PICTURES = ("images", "image")  # keys of a message with its images
REFERENCES = ("image", "url", "path", "base64")  # keys of an image part with its image

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
PYTHON_MESSAGES = re.compile(r"\s*(?:array\(\s*)?(?:\[\s*)?\{\s*'(?:role|content|from|value)'\s*:")
# The same for messages in which another key (`id`, `turn`) comes first.
JSON_OBJECTS = re.compile(r'\s*(?:\[\s*)?\{\s*"')
JSON_KEYS = (re.compile(r'"(?:role|from)"\s*:'), re.compile(r'"(?:content|value)"\s*:'))
PYTHON_OBJECTS = re.compile(r"\s*(?:array\(\s*)?\[\s*\{\s*'\w+'\s*:")
PYTHON_KEYS = (re.compile(r"'(?:role|from)'\s*:"), re.compile(r"'(?:content|value)'\s*:"))


@dataclass(frozen=True, slots=True)
class ImagePart:
    """The place of an image in a message; `image` is its reference if the message contains it."""

    image: Any = None


@dataclass(frozen=True, slots=True)
class Message:
    """One validated message. Content as a string equals content with one text part of the same text."""

    role: str
    parts: tuple[str | ImagePart, ...]
    typed: bool = field(default=False, compare=False)  # whether the content is a list of parts

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def image_parts(self) -> list[ImagePart]:
        return [part for part in self.parts if isinstance(part, ImagePart)]


class MessageReader:
    """Reads messages and records their unread keys.

    Args:
        mark: the text in a string that stands for the next image; None: no text does.
        json_text: whether a string may be the JSON text of messages, as in CSV files.

    Attributes:
        unread: keys of metadata that were not read, such as `prompt[].timestamp`.
    """

    def __init__(self, *, mark: str | None = PLACE, json_text: bool = False) -> None:
        self.mark = mark
        self.json_text = json_text
        self.unread: set[str] = set()

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
            return [Message("user", (value,))]
        if not isinstance(value, list):
            raise RowRejected("wrong_type", f"`{column}` is {shown(value)}; a string or a list of messages is needed")
        return [self._message(message, column=column, place=place) for place, message in enumerate(value)]

    def response(self, value: object, *, column: str) -> tuple[list[Message], str]:
        """Read a response: a string, a message, or a list of messages that ends with the response.

        Returns:
            The messages before the response, and the text of the response.

        Raises:
            RowRejected: the value is none of these, or the response contains an image.
        """
        value = self._decoded(value, column=column)
        if isinstance(value, str):
            return [], value
        if value is None:
            raise RowRejected("null_response", f"`{column}` is null; a response must be a text")
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
        if last.image_parts:
            raise RowRejected("image_in_response", f"`{column}`: the response contains an image; responses are text")
        return before, last.text

    def _decoded(self, value: object, *, column: str) -> object:
        """Convert one message, or the JSON text of messages, to a list; any other value is returned as it is."""
        if isinstance(value, str) and self.json_text:
            value = _messages_in(value, column=column)
        return [value] if isinstance(value, Mapping) and _form(value) else value

    def _message(self, message: object, *, column: str, place: int) -> Message:
        where = f"`{column}[{place}]`"
        keys = _form(message)
        if not isinstance(message, Mapping) or keys is None:
            raise RowRejected(
                "bad_message", f'{where} is {shown(message)}; a message is {{"role": ..., "content": ...}}'
            )
        self._check_keys(message, known=(*keys, *PICTURES), column=column, where=where)
        role = _role(message[keys[0]], key=keys[0], where=where)
        content = message[keys[1]]
        if isinstance(content, list):
            parts = tuple(_part(part, where=f"{where}: part {i}") for i, part in enumerate(content))
        elif isinstance(content, str):
            parts = (content,)
        else:
            detail = f"{where}: {keys[1]} is {shown(content)}; a string or a list of parts is needed"
            raise RowRejected("wrong_type", detail)
        images = [*_listed(message.get("images")), *_listed(message.get("image"))]
        if images:
            parts = self._with_images(parts, images, where=where)
        return Message(role, parts, typed=isinstance(content, list))

    def _check_keys(self, message: Mapping[str, Any], *, known: Collection[str], column: str, where: str) -> None:
        for key, value in message.items():
            if key in known or is_empty(value):
                continue
            if key not in METADATA:
                raise RowRejected(
                    "unknown_key",
                    f"{where}: the key '{str(key)[:60]}' is not read and may change the conversation; write it into "
                    f"the content, or remove it from the rows. Keys of a message that are read: {', '.join(known)}",
                )
            self.unread.add(f"{column.partition('[')[0]}[].{key}")

    def _with_images(
        self, parts: tuple[str | ImagePart, ...], images: list[Any], *, where: str
    ) -> tuple[str | ImagePart, ...]:
        """Put a message's images in place of its image parts or marks, or at its beginning if it has neither."""
        places = [part for part in parts if isinstance(part, ImagePart)]
        if any(part.image is not None for part in places):
            raise RowRejected("conflicting_columns", f"{where}: images are both in its parts and in its key `images`")
        if not places and self.mark:
            parts = _split(parts, self.mark)
            places = [part for part in parts if isinstance(part, ImagePart)]
        if not places:
            return (*map(ImagePart, images), *parts)
        if len(places) != len(images):
            raise RowRejected("image_count", f"{where} has {len(places)} image places and {len(images)} images")
        next_images = iter(images)
        return tuple(ImagePart(next(next_images)) if isinstance(part, ImagePart) else part for part in parts)


def _split(parts: tuple[str | ImagePart, ...], mark: str) -> tuple[str | ImagePart, ...]:
    """Replace each mark in a text by an image part."""
    split: list[str | ImagePart] = []
    for part in parts:
        if isinstance(part, ImagePart):
            split.append(part)
            continue
        for i, text in enumerate(part.split(mark)):
            if i:
                split.append(ImagePart())
            if text:
                split.append(text)
    return tuple(split)


def _messages_in(text: str, *, column: str) -> object:
    """Parse a text that is the JSON of messages; any other text is returned as it is.

    Raises:
        RowRejected: `python_text` (Python's notation); `malformed_json` (truncated JSON of messages).
    """
    if PYTHON_MESSAGES.match(text) or _has(text, PYTHON_OBJECTS, PYTHON_KEYS):
        raise RowRejected(
            "python_text",
            f"`{column}` is {shown(text)}: messages in Python's notation; write them as JSON (json.dumps), with double "
            "quotation marks",
        )
    begins_as_messages = JSON_MESSAGES.match(text) is not None
    if not begins_as_messages and not _has(text, JSON_OBJECTS, JSON_KEYS):
        return text
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        if not begins_as_messages:
            return text
        detail = f"`{column}` begins like JSON of messages but is invalid: {error.msg}, character {error.pos + 1}"
        raise RowRejected("malformed_json", detail) from None
    except (RecursionError, ValueError):
        pass  # `decode_json` reports the fault
    value = decode_json(text.strip())
    messages = value if isinstance(value, list) else [value]
    return messages if all(_form(message) for message in messages) else text


def _has(text: str, beginning: re.Pattern[str], keys: Collection[re.Pattern[str]]) -> bool:
    """Whether a text begins like JSON or Python objects and contains all keys."""
    return beginning.match(text) is not None and all(key.search(text) for key in keys)


def _form(message: object) -> tuple[str, str] | None:
    """Return the keys of a message's role and content; None if it is not a message."""
    if not isinstance(message, Mapping):
        return None
    return next((keys for keys in FORMS if all(key in message for key in keys)), None)


def _role(value: object, *, key: str, where: str) -> str:
    known = ROLES if key == "role" else tuple(SPEAKERS)
    if not isinstance(value, str) or value not in known:
        hint = " Tool calls and their results are not read." if value in ("tool", "function", "observation") else ""
        raise RowRejected("unknown_role", f"{where}: {unknown(key, str(value)[:60], known)}{hint}")
    return SPEAKERS[value]


def _part(part: object, *, where: str) -> str | ImagePart:
    if not isinstance(part, Mapping) or "type" not in part:
        detail = f'{where} is {shown(part)}; a part is {{"type": "text", "text": ...}} or {{"type": "image"}}'
        raise RowRejected("bad_message", detail)
    kind = part["type"]
    known = {"text": ("text",), "image": REFERENCES, "image_url": ("image_url",)}
    if kind not in known:
        raise RowRejected("unknown_part", f"{where}: {unknown('type', str(kind)[:60], known)}")
    # Parquet fills the keys that a part does not have with null.
    keys = [key for key, value in part.items() if key != "type" and not is_empty(value)]
    extra = [key for key in keys if key not in known[kind]]
    if extra:
        detail = unknown(f"key of a part of type {kind}", str(extra[0])[:60], ("type", *known[kind]))
        raise RowRejected("unknown_part", f"{where}: {detail}")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise RowRejected("wrong_type", f"{where}: text is {shown(part.get('text'))}; a string is needed")
        return str(part["text"])
    if len(keys) > 1:
        raise RowRejected("conflicting_columns", f"{where}: an image is given by {' and by '.join(keys)}; give one")
    if kind == "image_url" and not keys:
        raise RowRejected("unknown_part", f"{where}: image_url is {shown(part.get('image_url'))}; a URL is needed")
    return ImagePart(_reference(part[keys[0]], key=keys[0], where=where) if keys else None)


def _reference(value: object, *, key: str, where: str) -> object:
    """Convert the image of an image part to a reference as in a row's `images`."""
    if key == "base64":
        return {"bytes": value}
    if key != "image_url" or not isinstance(value, Mapping):
        return value
    extra = [name for name, inner in value.items() if name not in ("url", "detail") and not is_empty(inner)]
    if extra or not isinstance(value.get("url"), str):
        detail = f'{where}: image_url is {shown(value)}; a string or {{"url": ...}} is needed'
        raise RowRejected("unknown_part", detail)
    return value["url"]


def _listed(value: Any) -> list[Any]:
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
