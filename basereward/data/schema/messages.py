"""Chat messages as rows hold them: `{"role", "content"}` or `{"from", "value"}`, with pictures in parts or beside."""

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
FORMS = (("role", "content"), ("from", "value"))  # the keys of a message, as OpenAI and as ShareGPT name them
PLACE = "<image>"  # in a string: the place of the next image of the row
PICTURES = ("images", "image")  # keys of a message that hold its pictures
REFERENCES = ("image", "url", "path", "base64")  # keys of an image part that hold its picture

# Keys of messages that say nothing of what was said. They are named, with the columns that are not read; any other key
# that is not read loses the row, since it may be part of the conversation (`tool_calls`, `thinking`, `name`, ...).
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
# The same where another key (`id`, `turn`) stands first.
JSON_OBJECTS = re.compile(r'\s*(?:\[\s*)?\{\s*"')
JSON_KEYS = (re.compile(r'"(?:role|from)"\s*:'), re.compile(r'"(?:content|value)"\s*:'))
PYTHON_OBJECTS = re.compile(r"\s*(?:array\(\s*)?\[\s*\{\s*'\w+'\s*:")
PYTHON_KEYS = (re.compile(r"'(?:role|from)'\s*:"), re.compile(r"'(?:content|value)'\s*:"))


@dataclass(frozen=True, slots=True)
class ImagePart:
    """The place of an image in a message, with the image where the message holds it."""

    image: Any = None


@dataclass(frozen=True, slots=True)
class Message:
    """One checked message. A string and one text part of the same words are equal."""

    role: str
    parts: tuple[str | ImagePart, ...]
    typed: bool = field(default=False, compare=False)  # its content was a list of parts

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def image_parts(self) -> list[ImagePart]:
        return [part for part in self.parts if isinstance(part, ImagePart)]


class MessageReader:
    """Reads messages, and remembers which of their keys were not read.

    Args:
        mark: the text in a string that stands for the next image; None: no text does.
        json_text: whether a string that is JSON text of messages stands for these messages, as in a CSV file.

    Attributes:
        unread: keys without a meaning for the conversation that were met, such as `prompt[].timestamp`.
    """

    def __init__(self, *, mark: str | None = PLACE, json_text: bool = False) -> None:
        self.mark = mark
        self.json_text = json_text
        self.unread: set[str] = set()

    def read(self, value: object, *, column: str) -> list[Message]:
        """A string (one turn of the user), one message or a list of messages.

        >>> MessageReader().read("Hello", column="prompt")
        [Message(role='user', parts=('Hello',), typed=False)]
        >>> [message.role for message in MessageReader().read([{"from": "gpt", "value": "Hi"}], column="prompt")]
        ['assistant']

        Raises:
            RowRejected: it is neither; the message names column and place.
        """
        value = self._decoded(value, column=column)
        if isinstance(value, str):
            return [Message("user", (value,))]
        if not isinstance(value, list):
            raise RowRejected("wrong_type", f"`{column}` is {shown(value)}; a string or a list of messages is needed")
        return [self._message(message, column=column, place=place) for place, message in enumerate(value)]

    def response(self, value: object, *, column: str) -> tuple[list[Message], str]:
        """A response: a string, a message, or messages of which the last, the assistant's, is the response.

        Returns:
            The messages before the response, and the response's text.

        Raises:
            RowRejected: it is neither, or the response holds an image.
        """
        value = self._decoded(value, column=column)
        if isinstance(value, str):
            return [], value
        if value is None:
            raise RowRejected("null_response", f"`{column}` is null; a response is a text")
        if not isinstance(value, list) or not value:
            raise RowRejected(
                "wrong_type", f"`{column}` is {shown(value)}; a response is a string or a list of messages"
            )
        *before, last = self.read(value, column=column)
        if last.role != "assistant":
            raise RowRejected(
                "bad_turns",
                f"`{column}` ends with a turn of the {last.role}; its last turn is the response, the assistant's",
            )
        if last.image_parts:
            raise RowRejected("image_in_response", f"`{column}`: a response holds an image; responses are text")
        return before, last.text

    def _decoded(self, value: object, *, column: str) -> object:
        """A list of messages where the value is one message, or text that stands for messages."""
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
        pictures = [picture for key in PICTURES for picture in _listed(message.get(key))]
        if pictures:
            parts = self._with_pictures(parts, pictures, where=where)
        return Message(role, parts, typed=isinstance(content, list))

    def _check_keys(self, message: Mapping[str, Any], *, known: Collection[str], column: str, where: str) -> None:
        for key, value in message.items():
            if key in known or is_empty(value):
                continue
            if key not in METADATA:
                raise RowRejected(
                    "unknown_key",
                    f"{where}: its key '{str(key)[:60]}' is not read and may change what was said; write it into the "
                    f"content, or take it out of the rows. Keys of a message that are read: {', '.join(known)}",
                )
            self.unread.add(f"{column.partition('[')[0]}[].{key}")

    def _with_pictures(
        self, parts: tuple[str | ImagePart, ...], pictures: list[Any], *, where: str
    ) -> tuple[str | ImagePart, ...]:
        """The parts with a message's own pictures in their places: image parts, marks, or else its beginning."""
        places = [part for part in parts if isinstance(part, ImagePart)]
        if any(part.image is not None for part in places):
            raise RowRejected("conflicting_columns", f"{where}: images stand both in its parts and in its key `images`")
        if not places and self.mark:
            parts = _split(parts, self.mark)
            places = [part for part in parts if isinstance(part, ImagePart)]
        if not places:
            return (*map(ImagePart, pictures), *parts)
        if len(places) != len(pictures):
            raise RowRejected("image_count", f"{where} has {len(places)} image places and {len(pictures)} images")
        waiting = iter(pictures)
        return tuple(ImagePart(next(waiting)) if isinstance(part, ImagePart) else part for part in parts)


def _split(parts: tuple[str | ImagePart, ...], mark: str) -> tuple[str | ImagePart, ...]:
    """The parts with every mark in a text as an image part."""
    split: list[str | ImagePart] = []
    for part in parts:
        if isinstance(part, ImagePart):
            split.append(part)
            continue
        for i, text in enumerate(part.split(mark)):
            split += [ImagePart()] if i else []
            split += [text] if text else []
    return tuple(split)


def _messages_in(text: str, *, column: str) -> object:
    """The messages that a cell of text holds as JSON; any other text as it is.

    Raises:
        RowRejected: `python_text`, Python's own notation; `malformed_json`, JSON of messages that breaks off.
    """
    if PYTHON_MESSAGES.match(text) or _has(text, PYTHON_OBJECTS, PYTHON_KEYS):
        raise RowRejected(
            "python_text",
            f"`{column}` is {shown(text)}: messages as Python prints them; write them as JSON (json.dumps), which has "
            "double quotation marks",
        )
    begins_as_messages = JSON_MESSAGES.match(text) is not None
    if not begins_as_messages and not _has(text, JSON_OBJECTS, JSON_KEYS):
        return text
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        if not begins_as_messages:
            return text
        detail = f"`{column}` begins as JSON of messages and is not JSON: {error.msg}, character {error.pos + 1}"
        raise RowRejected("malformed_json", detail) from None
    except (RecursionError, ValueError):
        pass  # `decode_json` says what is wrong
    value = decode_json(text.strip())
    messages = value if isinstance(value, list) else [value]
    return messages if all(_form(message) for message in messages) else text


def _has(text: str, beginning: re.Pattern[str], keys: Collection[re.Pattern[str]]) -> bool:
    """Whether a text begins like objects and has every one of some keys."""
    return beginning.match(text) is not None and all(key.search(text) for key in keys)


def _form(message: object) -> tuple[str, str] | None:
    """The keys of a message's role and content; None: it is no message."""
    if not isinstance(message, Mapping):
        return None
    return next((keys for keys in FORMS if all(key in message for key in keys)), None)


def _role(value: object, *, key: str, where: str) -> str:
    known = ROLES if key == "role" else tuple(SPEAKERS)
    if not isinstance(value, str) or value not in known:
        hint = " Calls of tools and their results are not read." if value in ("tool", "function", "observation") else ""
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
    given = [key for key, value in part.items() if key != "type" and not is_empty(value)]
    extra = [key for key in given if key not in known[kind]]
    if extra:
        detail = unknown(f"key of a part of type {kind}", str(extra[0])[:60], ("type", *known[kind]))
        raise RowRejected("unknown_part", f"{where}: {detail}")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise RowRejected("wrong_type", f"{where}: text is {shown(part.get('text'))}; a string is needed")
        return str(part["text"])
    if len(given) > 1:
        raise RowRejected("conflicting_columns", f"{where}: an image is given by {' and by '.join(given)}; give one")
    if kind == "image_url" and not given:
        raise RowRejected("unknown_part", f"{where}: image_url is {shown(part.get('image_url'))}; an address is needed")
    return ImagePart(_reference(part[given[0]], key=given[0], where=where) if given else None)


def _reference(value: object, *, key: str, where: str) -> object:
    """The picture of an image part, as a row's `images` may hold it."""
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
    """Whether a cell or key says nothing: null, false, or an empty text, list or object.

    >>> [is_empty(value) for value in (None, "", [], {}, False, 0, " ", [None])]
    [True, True, True, True, True, False, False, False]
    """
    return value is None or value is False or (isinstance(value, str | bytes | list | Mapping) and len(value) == 0)


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
