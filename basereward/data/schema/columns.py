"""Which columns of a row are read, and which of the others must not be passed over: pictures, tools, parts of a prompt.

A column that nothing reads is named, once a source. One that by its name holds something that the responses are about
loses the row, with the mapping to write.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from basereward.data.schema.messages import is_empty, shown
from basereward.data.schema.rejections import RowRejected
from basereward.errors import nearest

Media: TypeAlias = Literal["image", "response_image", "video", "audio"]

SHOWN = 10  # names of columns in a warning

# What `basereward annotate` writes beside the columns that it writes to be trained on.
OF_ANNOTATE = frozenset({"verdict", "attempts", "prompt_sha256", "texts"})
# Other names that are read for a column of ours without a mapping, since they cannot mean anything else; the first that
# a row has. Pictures under any other name (`img`, `photo`, `image_url`) need a mapping: such columns often stand beside
# the pictures themselves and hold where those once came from.
ALIASES = {
    "images": ("Images", "IMAGES", "Image", "IMAGE", "image_path", "image_paths", "image_list"),
    "system": ("system_prompt",),
}
ALIAS_NAMES = frozenset(name for others in ALIASES.values() for name in others)
# Columns that change what is asked. They lose the row unless they are read, or their text stands in the prompt already.
PROMPT_TEXTS = (
    "system", "system_prompt", "system_message", "system_instruction", "instruction", "input", "context",
)  # fmt: skip
TOOLS = ("tools", "functions")
# Names under which data sets keep the prompt, the likeliest first.
LIKE_PROMPT = (
    "conversations", "conversation", "messages", "question", "query", "input", "user_input", "problem", "context",
    "post", "history", "text",
)  # fmt: skip

PICTURE = re.compile(
    r"(?:image|img|picture|pic|photo|pixel|screenshot)s?(?:path|file|url|uri|name|list|data|bytes|base64|b64|value)?s?"
    r"|jpg|jpeg|png|webp"
)
# Of a row that has its pictures, such columns say where those came from.
PLACE_WORD = re.compile(r"\w*(?:path|file|url|uri|name)s?")
RESPONSE_WORDS = frozenset({"chosen", "rejected", "response", "responses", "answer", "answers", "completion"})
# Words that make a column one about pictures, such as `image_width`, `num_images` or `image_caption`.
ABOUT = frozenset(
    {
        "id", "ids", "width", "height", "size", "sizes", "shape", "resolution", "aspect", "ratio", "source", "sources",
        "origin", "caption", "captions", "description", "descriptions", "hash", "md5", "sha1", "sha256", "count",
        "counts", "num", "number", "n", "has", "is", "with", "type", "types", "kind", "format", "mode", "category",
        "license", "licence", "author", "title", "alt", "ocr", "text", "tags", "labels", "label", "token", "tokens",
        "index", "idx", "turn", "prompt", "question", "score", "quality", "dataset", "split", "date",
    }
)  # fmt: skip
FILES: dict[Media, tuple[str, ...]] = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2"),
    "video": (".mp4", ".avi", ".mov", ".mkv", ".webm"),
    "audio": (".wav", ".mp3", ".flac", ".ogg", ".m4a"),
}
IMAGE_URI = re.compile(r"data:image/", re.IGNORECASE)
MAX_PATH = 4096  # letters
MAX_ENDING = 5


@dataclass
class ColumnsRead:
    """What became of the columns of the rows that were read so far.

    Attributes:
        read: our name of each column that was read -> the data's own.
        passed: columns that were not read in some row, in the order in which they were met, and such keys of messages.
        notes: what else to know of how rows were read.
    """

    read: dict[str, str] = field(default_factory=dict)
    passed: dict[str, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)

    @property
    def unread(self) -> list[str]:
        """The columns that no row was read from."""
        read = set(self.read.values())
        return [name for name in self.passed if name not in read and name not in OF_ANNOTATE]

    def passed_over(self, row: Mapping[str, Any], *, read: Collection[str]) -> dict[str, Any]:
        """The cells of a row that say something and are not among those read. Their columns are noted."""
        rest = {str(name): value for name, value in row.items() if name not in read and not is_empty(value)}
        self.passed.update(dict.fromkeys(rest))
        return rest


def shown_names(names: Sequence[str]) -> str:
    """Names of columns for a message, at most ten.

    >>> shown_names([f"c{i}" for i in range(12)])
    'c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 and 2 more'
    """
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(name[:60] for name in names[:SHOWN]) + more


@runtime_checkable
class ReportsColumns(Protocol):
    """A source that knows which columns of its rows are read."""

    def columns_read(self) -> ColumnsRead: ...


class WatchedRow(Mapping[str, Any]):
    """A row that notes which of its cells are asked for, in `asked`, in their order."""

    def __init__(self, row: Mapping[str, Any], asked: dict[str, None]) -> None:
        self._row = dict(row)
        self._asked = asked
        if isinstance(row.get("rows"), list):  # rows that were joined to one
            self._row["rows"] = [WatchedRow(each, asked) if isinstance(each, Mapping) else each for each in row["rows"]]

    def __getitem__(self, name: str) -> Any:
        self._asked[name] = None
        return self._row[name]

    def __contains__(self, name: object) -> bool:
        return name in self._row

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)


def check_media(rest: Mapping[str, Any], *, has_images: bool) -> None:
    """Checks that no column that is not read holds what the model should have seen or heard.

    Args:
        rest: cells that are not read.
        has_images: whether pictures of the row were found; then `image_url` and the like say where they came from, but
            `image_2` is another one.

    Raises:
        RowRejected: `video`, `audio`, `image_in_response` or `image_column_not_mapped`.
    """
    for name, value in rest.items():
        media = media_of(name, value)
        way_out = f"if not, columns: {{{name}: null}} leaves it unread"
        if media in ("video", "audio"):
            raise RowRejected(media, f"the row has a `{name}`; {media}s cannot be used; {way_out}")
        if media == "response_image":
            raise RowRejected(
                "image_in_response", f"column '{name}' by its name holds pictures of a response; {way_out}"
            )
        if media == "image" and not (has_images and _is_origin(name)):
            mapping = f"if these are the images: columns: {{images: {name}}}"
            if has_images:
                mapping = "if it holds one more image of the row, write all of them as a list in one column, `images`"
            raise RowRejected("image_column_not_mapped", f"column '{name}' is not read; {mapping}; {way_out}")


def check_prompt_columns(rest: Mapping[str, Any], *, prompt: str | None) -> None:
    """Checks that no column that is not read changes what is asked.

    Args:
        rest: cells that are not read.
        prompt: the texts of its turns; None: a shape makes the prompt, of which only a system turn is expected apart.

    Raises:
        RowRejected: `tools`; `prompt_column_not_mapped`, a text that is not in the prompt.
    """
    for name, value in rest.items():
        way_out = f"columns: {{{name}: null}} leaves it unread"
        known = name.lower()  # some data sets write `System`
        if known in TOOLS and not (isinstance(value, str) and value.strip() in ("[]", "{}", "null", "None")):
            detail = f"the row has `{name}`, {shown(value)}, which prompts are not rendered with"
            raise RowRejected("tools", f"{detail}; write them into the system turn, or {way_out}")
        is_system = known.startswith("system")
        if (
            known not in PROMPT_TEXTS
            or not isinstance(value, str | list | Mapping)
            or (prompt is None and not is_system)
        ):
            continue
        if prompt is None or not isinstance(value, str) or value.strip() not in prompt:
            detail = f"column '{name}' is not read and its text is not in the prompt"
            if prompt is not None:
                how = "makes it the system turn" if is_system else "puts it below the prompt"
                detail += f": columns: {{{'system' if is_system else 'input'}: {name}}} {how}"
            raise RowRejected("prompt_column_not_mapped", f"{detail}, {way_out}")


def media_of(name: str, value: object) -> Media | None:
    """What a column must hold by its name and value; None: neither picture nor sound.

    >>> media_of("imageUrl", "https://x.org/1"), media_of("img", "1.png"), media_of("file_name", "1.png")
    ('image', 'image', 'image')
    >>> media_of("figure", {"bytes": b"png", "path": None}), media_of("attachments", ["1.png", "2.png"])
    ('image', 'image')
    >>> media_of("visuals", [{"bytes": b"png", "path": None}]), media_of("asset", "data:image/png;base64,iVBORw0K")
    ('image', 'image')
    >>> media_of("image_width", 640), media_of("image_caption", "A cat"), media_of("file_name", "rows.csv")
    (None, None, None)
    >>> media_of("rejected_images", ["1.png"]), media_of("videos", ["1.mp4"]), media_of("audio", {"path": "1.wav"})
    ('response_image', 'video', 'audio')
    """
    kind = _kind_of(name)
    if kind == "about":
        return None
    contents = list(_contents(value)) if kind or isinstance(value, str | list | Mapping) else []
    if kind or not contents:
        return kind if contents else None
    stored = value if isinstance(value, list) else [value]
    if all(isinstance(each, Mapping) and set(each) == {"bytes", "path"} for each in stored) and any(
        isinstance(each, bytes) for each in contents
    ):
        return "image"  # as the `datasets` library stores them
    if all(isinstance(content, str) and IMAGE_URI.match(content) for content in contents):
        return "image"
    if not all(isinstance(content, str) and len(content) < MAX_PATH for content in contents):
        return None
    files = [str(content[-MAX_ENDING:]).lower() for content in contents]  # type: ignore[index]  # texts, as checked
    media = next((media for media, endings in FILES.items() if all(file.endswith(endings) for file in files)), None)
    return media if media and not any(" " in str(content) or "\n" in str(content) for content in contents) else None


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name[:200])]


@lru_cache(maxsize=10_000)
def _kind_of(name: str) -> Media | Literal["about"] | None:
    """What a column holds by its name alone; `about`: something said about pictures; None: its values tell."""
    words = set(_words(name))
    if ABOUT & words:
        return "about"
    if any(PICTURE.fullmatch(word) for word in words):
        return "response_image" if RESPONSE_WORDS & words else "image"
    if {"video", "videos"} & words:
        return "video"
    return "audio" if {"audio", "audios"} & words else None


@lru_cache(maxsize=10_000)
def _is_origin(name: str) -> bool:
    """Whether a column beside a row's pictures says where they came from, by its name.

    >>> [_is_origin(name) for name in ("image_url", "imagePath", "file_name", "figure", "img", "image_2", "url_2")]
    [True, True, True, True, False, False, False]
    """
    words = _words(name)
    if any(word.isdigit() for word in words):
        return False
    return _kind_of(name) is None or any(PLACE_WORD.fullmatch(word) for word in words)


def _contents(value: object) -> Iterator[object]:
    """The texts and bytes of a cell that may hold pictures, and anything that is neither number, list nor object."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _contents(inner)
    elif isinstance(value, str) and not value.strip():
        return
    elif not is_empty(value) and not isinstance(value, bool | int | float):
        yield value


def like_prompt(columns: Iterable[str]) -> str | None:
    """The column that most likely holds the prompt, or None.

    >>> like_prompt(["id", "query", "conversations"]), like_prompt(["promt", "chosen"]), like_prompt(["a"])
    ('conversations', 'promt', None)
    """
    names = {str(name).lower(): str(name) for name in columns}
    known = next((names[name] for name in LIKE_PROMPT if name in names), None)
    return known or nearest("prompt", names.values())
