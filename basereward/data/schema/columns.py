"""Tracks which columns of a row are read, and checks the others for images, tools and parts of a prompt.

A warning names unread columns once per source. If an unread column seems to contain a part of the prompt, the row is
rejected, and the message shows how to map the column.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from basereward.data.schema.column_mapping import columns_text
from basereward.data.schema.messages import is_empty, shown
from basereward.data.schema.rejections import RowRejected
from basereward.errors import nearest

Media: TypeAlias = Literal["image", "response_image", "video", "audio"]

# The largest number of column names in a warning.
SHOWN = 10

# Additional columns that `basereward annotate` writes; they are not for training.
OF_ANNOTATE = frozenset({"verdict", "attempts", "prompt_sha256", "texts"})
# Columns that WebDataset and its tools add to every row: the name of a sample, and the place that it was read from.
OF_WEB_DATASET = frozenset({"__key__", "__url__", "__local_path__"})
# Unambiguous other names of our columns, which need no mapping; the first one that a row has is read. Images under any
# other name (`img`, `photo`, `image_url`) need a mapping: such columns often exist next to the images themselves and
# contain their origin.
ALIASES = {
    # `file_name` is that of the hub's layout ImageFolder.
    "images": ("Images", "IMAGES", "Image", "IMAGE", "image_path", "image_paths", "image_list", "file_name"),
    "system": ("system_prompt",),
    # argilla, OpenRLHF, and the sets of HuggingFaceH4
    "chosen_rating": ("chosen-rating", "rating_chosen", "chosen_score", "score_chosen"),
    "rejected_rating": ("rejected-rating", "rating_rejected", "rejected_score", "score_rejected"),
}
ALIAS_NAMES = frozenset(itertools.chain.from_iterable(ALIASES.values()))
# Columns that change the prompt. A row is rejected unless they are read, or their text is in the prompt already.
PROMPT_TEXTS = (
    "system", "system_prompt", "system_message", "system_instruction", "instruction", "input", "context", "history",
)  # fmt: skip
# Names of speakers in messages, which are no text of a prompt.
ROLE_NAMES = frozenset({"system", "user", "assistant", "human", "gpt", "bot"})
TOOLS = ("tools", "functions")
# Texts of such a column in rows without tools.
NO_TOOLS = ("[]", "{}", "null", "None")
# Column names that data sets use for the prompt, the most likely first. They are only proposed, never read: in some
# data sets `question` or `text` is only a part of the prompt.
LIKE_PROMPT = (
    "conversations", "conversation", "messages", "question", "query", "input", "user_input", "problem", "context",
    "post", "history", "text",
)  # fmt: skip

# Words of columns with images, such as `imgPath` or `pixel_values`.
IMAGE_WORD = re.compile(
    r"(?:image|img|picture|pic|photo|pixel|screenshot)s?(?:path|file|url|uri|name|list|data|bytes|base64|b64|value)?s?"
    r"|jpg|jpeg|png|webp"
)
# If a row has images, columns with such a word contain the origin of the images.
PLACE_WORD = re.compile(r"\w*(?:path|file|url|uri|name)s?")
RESPONSE_WORDS = frozenset({"chosen", "rejected", "response", "responses", "answer", "answers", "completion"})
# Words of columns with metadata of images, such as `image_width`, `num_images` or `image_caption`.
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
# Characters, the limit of Linux.
MAX_PATH = 4096
# Characters of the longest suffix in FILES.
MAX_SUFFIX = 5


@dataclass
class ColumnsRead:
    """A report on the columns of the rows read so far.

    The dicts with None as values serve as ordered sets.

    Attributes:
        read: our name of each column that was read -> its name in the data.
        skipped: columns, and keys of messages, that were not read in at least one row, in order of occurrence.
        notes: further remarks on how rows were read.
        rendered: columns with text that a chat template has rendered already.
        formats: the formats that rows were recognised as (see `basereward/data/formats`).

    >>> report = ColumnsRead(read={"prompt": "question"})
    >>> report.record_skipped({"question": "2 + 2?", "score": 3, "note": ""}, read={"question"})
    {'score': 3}
    >>> report.unread
    ['score']
    """

    read: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    formats: dict[str, None] = field(default_factory=dict)
    rendered: dict[str, None] = field(default_factory=dict)

    @property
    def unread(self) -> list[str]:
        """The columns that were not read from any row."""
        read = set(self.read.values())
        return [name for name in self.skipped if name not in read.union(OF_ANNOTATE, OF_WEB_DATASET)]

    def record_skipped(self, row: Mapping[str, Any], *, read: Collection[str]) -> dict[str, Any]:
        """Record and return the non-empty cells of a row that are not read.

        Args:
            row: the cells by column.
            read: the columns that are read, by their names in the data.
        """
        rest = {str(name): value for name, value in row.items() if name not in read and not is_empty(value)}
        self.skipped.update(dict.fromkeys(rest))
        return rest


def shown_names(names: Sequence[str]) -> str:
    """Join column names for a message, at most ten.

    >>> shown_names([f"c{i}" for i in range(12)])
    'c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 and 2 more'
    """
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(name[:60] for name in names[:SHOWN]) + more


@runtime_checkable
class ReportsColumns(Protocol):
    """A source that reports which columns of its rows are read."""

    def columns_read(self) -> ColumnsRead:
        """Report on the columns of the source."""
        ...


class WatchedRow(Mapping[str, Any]):
    """A row that records which cells are accessed.

    Args:
        row: the row.
        accessed: an ordered set of column names, which accesses are added to.

    >>> accessed = {}
    >>> row = WatchedRow({"prompt": "Q", "chosen": "a"}, accessed)
    >>> row["chosen"], list(accessed)
    ('a', ['chosen'])
    """

    def __init__(self, row: Mapping[str, Any], accessed: dict[str, None]) -> None:
        self._row = dict(row)
        self._accessed = accessed
        # `Gathered` adds the rows that were joined. An adapter reads their cells instead of those of the joined row.
        joined = row.get("rows")
        if isinstance(joined, list):
            self._row["rows"] = [WatchedRow(part, accessed) if isinstance(part, Mapping) else part for part in joined]

    def __getitem__(self, name: str) -> Any:
        self._accessed[name] = None
        return self._row[name]

    def __contains__(self, name: object) -> bool:
        return name in self._row

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)


def check_media(rest: Mapping[str, Any], *, has_images: bool) -> None:
    """Check that no unread column contains images, video or audio.

    Args:
        rest: the unread cells by column.
        has_images: whether the row has images. Then columns such as `image_url` are taken for the origin of these
            images, but `image_2` is taken for another image.

    Raises:
        RowRejected: `video`, `audio`, `image_in_response` or `image_column_not_mapped`.

    >>> check_media({"image_url": "https://x.org/1.png"}, has_images=True)
    >>> check_media({"image_url": "https://x.org/1.png"}, has_images=False)
    Traceback (most recent call last):
    basereward.data.schema.rejections.RowRejected: column 'image_url' is not read; if these are the images: ...
    """
    for name, value in rest.items():
        media = media_of(name, value)
        ignore_hint = f"if not, {columns_text({name: None})} leaves it unread"
        if media == "audio":
            raise RowRejected(media, f"the row has a `{name}`; audio cannot be used; {ignore_hint}")
        if media == "video":
            # If a column of ours is read already, a second one cannot be mapped to it.
            mapping = f"if these are the videos of the prompt: {columns_text({'videos': name})}"
            raise RowRejected(media, f"column '{name}' is not read; {mapping}; {ignore_hint}")
        if media == "response_image":
            raise RowRejected(
                "image_in_response", f"column '{name}' seems to contain images of a response; {ignore_hint}"
            )
        if media == "image" and not (has_images and _is_origin(name)):
            mapping = f"if these are the images: {columns_text({'images': name})}"
            if has_images:
                mapping = "if it contains another image of the row, write all images as a list in one column, `images`"
            raise RowRejected("image_column_not_mapped", f"column '{name}' is not read; {mapping}; {ignore_hint}")


def check_prompt_columns(rest: Mapping[str, Any], *, prompt: str, can_map: bool = True) -> None:
    """Check that no unread column contains a part of the prompt.

    Args:
        rest: the unread cells by column.
        prompt: the texts of the prompt's turns.
        can_map: whether `columns` can map a column to one of ours. With an adapter it maps those of the adapter.

    Raises:
        RowRejected: `tools`; `prompt_column_not_mapped` (a text that is not in the prompt).

    >>> check_prompt_columns({"context": "Q1"}, prompt="Q1, continued")
    >>> check_prompt_columns({"context": "Q1"}, prompt="Q2")
    Traceback (most recent call last):
    basereward.data.schema.rejections.RowRejected: column 'context' is not read and its text is not in the prompt: ...
    """
    for name, value in rest.items():
        # Some data sets write `System` or `Tools`.
        if name.lower() in TOOLS:
            _check_tools(name, value)
        elif name.lower() in PROMPT_TEXTS:
            _check_prompt_text(name, value, prompt=prompt, can_map=can_map)


def _check_tools(name: str, value: object) -> None:
    """Check that a cell contains no tools that the model could call."""
    if isinstance(value, str) and value.strip() in NO_TOOLS:
        return
    detail = f"the row has `{name}`, {shown(value)}; tools are not rendered into prompts"
    raise RowRejected(
        "tools", f"{detail}; write them into the system turn, or {columns_text({name: None})} leaves it unread"
    )


def _check_prompt_text(name: str, value: object, *, prompt: str, can_map: bool) -> None:
    """Check that a cell is not a part of a prompt, unless the prompt contains it."""
    if not isinstance(value, str | list | Mapping):
        return
    texts = [text for text in _contents(value) if isinstance(text, str) and text.lower() not in ROLE_NAMES]
    if all(text.strip() in prompt for text in texts):
        return
    detail = f"column '{name}' is not read and its text is not in the prompt"
    if can_map:
        ours, effect = "input", "appends it to the prompt"
        if name.lower().startswith("system"):
            ours, effect = "system", "makes it the system turn"
        elif name.lower() == "history":
            ours, effect = "history", "makes it the earlier turns"
        detail += f": {columns_text({ours: name})} {effect}"
    raise RowRejected("prompt_column_not_mapped", f"{detail}, {columns_text({name: None})} leaves it unread")


def media_of(name: str, value: object) -> Media | None:
    """Guess from its name and value what media a column contains; None: no media.

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
    if kind is not None:
        # A column named `image` may contain bytes or decoded images. Only an empty cell has no image.
        return kind if any(True for _ in _contents(value)) else None
    return _media_of_value(value) if isinstance(value, str | list | Mapping) else None


def _media_of_value(value: str | list[Any] | Mapping[Any, Any]) -> Media | None:
    """Guess from its value alone what media a cell contains; None: no media."""
    contents = list(_contents(value))
    if _is_image_feature(value, contents):
        return "image"
    texts = [content for content in contents if isinstance(content, str)]
    if not texts or len(texts) < len(contents):
        return None
    return _media_of_texts(texts)


def _is_image_feature(value: object, contents: Sequence[object]) -> bool:
    """Whether a cell is an image or a list of images in the storage format of `datasets.Image`."""
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, Mapping) and set(item) == {"bytes", "path"} for item in items):
        return False
    return any(isinstance(content, bytes) for content in contents)


def _media_of_texts(texts: Sequence[str]) -> Media | None:
    """Guess what media the texts of a cell name, by a data URI or the suffix of a file; None: no media."""
    if all(IMAGE_URI.match(text) for text in texts):
        return "image"
    if not all(map(_may_be_path, texts)):
        return None
    suffixes = [text[-MAX_SUFFIX:].lower() for text in texts]
    for media, endings in FILES.items():
        if all(suffix.endswith(endings) for suffix in suffixes):
            return media
    return None


def _may_be_path(text: str) -> bool:
    """Whether a text is short enough for a path and has no space or line break, which prose has."""
    return len(text) < MAX_PATH and " " not in text and "\n" not in text


def _words(name: str) -> list[str]:
    """Split a column name in snake case or camel case into words."""
    # A name may have any length: a CSV file without a header has the text of its first row as names.
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name[:200])]


# Cached, because the unread columns of every row are checked, and a data set has few different names.
@lru_cache(maxsize=10_000)
def _kind_of(name: str) -> Media | Literal["about"] | None:
    """Guess the media of a column from its name; `about`: metadata of images; None: the values decide."""
    words = set(_words(name))
    if ABOUT & words:
        return "about"
    if any(IMAGE_WORD.fullmatch(word) for word in words):
        return "response_image" if RESPONSE_WORDS & words else "image"
    if {"video", "videos"} & words:
        return "video"
    return "audio" if {"audio", "audios"} & words else None


@lru_cache(maxsize=10_000)
def _is_origin(name: str) -> bool:
    """Whether a column seems, by its name, to contain the origin of the row's images.

    >>> [_is_origin(name) for name in ("image_url", "imagePath", "file_name", "figure", "img", "image_2", "url_2")]
    [True, True, True, True, False, False, False]
    """
    words = _words(name)
    # A number distinguishes several images of a row.
    if any(word.isdigit() for word in words):
        return False
    return _kind_of(name) is None or any(PLACE_WORD.fullmatch(word) for word in words)


def _contents(value: object) -> Iterator[object]:
    """Yield the leaves of a cell, except numbers and empty values."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _contents(inner)
    elif isinstance(value, str) and not value.strip():
        return
    elif not is_empty(value) and not isinstance(value, bool | int | float):
        yield value


def split_mapping(columns: Mapping[str, str | None] | None) -> tuple[dict[str, str], frozenset[str]]:
    """Separate the `columns` of a recipe into names to map and names to ignore.

    Args:
        columns: our column name -> the name in the data; a name -> None leaves that column unread.

    Returns:
        Our column name -> the name in the data, and the names of the columns that are left unread.

    >>> split_mapping({"prompt": "question", "score": None})
    ({'prompt': 'question'}, frozenset({'score'}))
    """
    mapped: dict[str, str] = {}
    ignored = []
    for name, own in (columns or {}).items():
        if own is None:
            ignored.append(name)
        else:
            mapped[name] = own
    return mapped, frozenset(ignored)


def like_prompt(columns: Iterable[str]) -> str | None:
    """Return the column that most likely contains the prompt, or None.

    >>> like_prompt(["id", "query", "conversations"]), like_prompt(["promt", "chosen"]), like_prompt(["a"])
    ('conversations', 'promt', None)
    """
    names = {str(name).lower(): str(name) for name in columns}
    known = next((names[name] for name in LIKE_PROMPT if name in names), None)
    return known or nearest("prompt", names.values())
