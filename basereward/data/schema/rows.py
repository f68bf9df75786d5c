"""Reads rows of preference data in the pair form (`chosen`, `rejected`) or the general form (`responses`).

    {"prompt": str or [messages], "chosen": ..., "rejected": ..., "images": [...], "margin": 1.5, "id": "..."}
    {"prompt": ..., "responses": [...], "ranking": [0, 2, 1], "images": [...]}
    {"prompt": ..., "responses": [...], "preferences": [[winner, loser], ...], "margins": [...]}
    {"prompt": ..., "responses": [...], "ratings": [4, 1, 2]}        ranked by the ratings

`ranking[i]` is the rank of response i; lower is better, and equal ranks are a tie. `prompt` may be absent if `chosen`
and `rejected` are message lists that begin with it. `instruction` with an optional `input` replaces `prompt`. `system`
is the first turn of the prompt, `history` its earlier turns. An image is a path, `{"path": ..., "bytes": ...}`, or a
data URI in base64. `videos` has one entry for each video: the path of a file or of a folder of frames, or a list of
frames (see `basereward.data.videos.references`).

Responses may have images, in parts of their messages or in columns of their own:

    {"prompt": "Draw a cat.", "chosen_images": ["a.png"], "rejected_images": ["b.png"]}
    {"prompt": ..., "responses": ["A cat: <image>", "None."], "response_images": [["a.png"], []], "ranking": [0, 1]}

Both forms may have targets for generative heads: `critiques` (one text per response) or `chosen_critique` and
`rejected_critique`; `ratings` from 0 to 1, or `chosen_rating` and `rejected_rating`; `reasonings`, a list of [first,
second, text] in which the text calls the responses with these indices 1 and 2, or `reasoning`, a text about the first
two responses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from basereward.data.images.image_store import ImageStore
from basereward.data.python_text import parse_python
from basereward.data.readers.json_lines import decode_json
from basereward.data.schema.annotations import COLUMNS as ANNOTATIONS
from basereward.data.schema.annotations import read_annotations
from basereward.data.schema.column_mapping import ColumnNames
from basereward.data.schema.columns import (
    ALIAS_NAMES,
    ALIASES,
    ColumnsRead,
    check_media,
    check_prompt_columns,
    media_of,
    split_mapping,
)
from basereward.data.schema.group import Group, PlacedImage, Preference, Turn, Visual
from basereward.data.schema.image_references import find_image, reference_list
from basereward.data.schema.messages import PLACE, Message, MessageReader, is_empty, shown
from basereward.data.schema.missing_columns import columns_found, no_prompt
from basereward.data.schema.preferences import check_ratings, read_preferences
from basereward.data.schema.prompts import (
    check_not_empty,
    in_place_order,
    join_prompt,
    place_images,
    place_videos,
    with_history,
    with_input,
    with_system,
)
from basereward.data.schema.rejections import ColumnRejected, RowRejected, located
from basereward.data.schema.responses.read_responses import (
    IMAGE_COLUMNS,
    ResponseCell,
    placed_response,
    response_cells,
    response_images,
)
from basereward.data.schema.text import is_rendered
from basereward.data.videos.references import find_video
from basereward.errors import DataError, unknown

COLUMNS = (
    "id", "prompt", "chosen", "rejected", "responses", "ranking", "preferences", "margin", "margins", "images", "image",
    "response_images", "chosen_images", "rejected_images", "videos", "video", "system", "history", "input",
    *ANNOTATIONS,
)  # fmt: skip
# In files in which all cells are text, such as CSV, lists are JSON text and numbers are digits.
# Other columns that begin with a bracket are text: a prompt may be `[1, 2] + [3] = ?`.
LISTS = (
    "responses", "ranking", "preferences", "margins", "ratings", "critiques", "reasonings", "history", "images",
    "image", "videos", *IMAGE_COLUMNS,
)  # fmt: skip
NUMBERS = ("margin", "chosen_rating", "rejected_rating")
EMPTY_TEXT_IS_NULL = ("images", "image", *IMAGE_COLUMNS, "videos", "video", "system", "history", "input")


class RowFormat:
    """Converts rows to groups.

    Args:
        columns: our column name -> the name in the data; a name of ours or of the data -> null leaves that column
            unread.
        images: resolves image paths.
        for_training: whether a row needs two responses and a preference; if not, one response is enough.
        of_table: whether rows come from a file. Then a text may be the JSON text of a list, as in CSV files, and null
            in an image column means that the image is missing.
        image_mark: the text in a prompt that stands for the next image; null: no text does.
        rating_range: the lowest and the highest rating of the data, which become 0 and 1; null: ratings stay as they
            are.

    Attributes:
        report: which columns have been read so far, and which have not.

    Raises:
        DataError: `columns` contains an unknown column, or `rating_range` is invalid.

    >>> row = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
    >>> group = RowFormat().group(row, source="sums", row_id="0", where="sums.jsonl:1")
    >>> group.responses, group.preferences[0].winner
    (('4', '5'), 0)
    """

    def __init__(
        self,
        *,
        columns: Mapping[str, str | None] | None = None,
        images: ImageStore | None = None,
        for_training: bool = True,
        of_table: bool = False,
        image_mark: str | None = PLACE,
        rating_range: Sequence[float] | None = None,
    ) -> None:
        self.columns, self.ignored = split_mapping(columns)
        for name in self.columns:
            if name not in COLUMNS:
                raise DataError(f"columns: {unknown('column', name, COLUMNS)}")
        self.images = images or ImageStore()
        self.for_training = for_training
        self.of_table = of_table
        self.image_mark = image_mark or None
        self.rating_range = _range(rating_range)
        self.report = ColumnsRead()
        self._names = self._names_in_data()

    def without_mapping(self) -> RowFormat:
        """Return a format with the same options that reads our own column names, and `input` if it is mapped.

        >>> RowFormat(columns={"prompt": "question"}).without_mapping().columns
        {}
        """
        return RowFormat(
            # Without a mapping, `input` is read only after `instruction`.
            columns={"input": "input"} if "input" in self.columns else None,
            images=self.images,
            for_training=self.for_training,
            of_table=self.of_table,
            image_mark=self.image_mark,
            rating_range=self.rating_range,
        )

    def group(
        self,
        row: Mapping[str, Any],
        *,
        source: str,
        row_id: str,
        where: str,
        names: ColumnNames | None = None,
    ) -> Group:
        """Convert a row to a group. Images are not opened; `check_usable` checks whether it is usable for training.

        Args:
            row: the cells by column.
            source: the name of the source.
            row_id: the id of the group if the row has none.
            where: the location of the row for messages, such as `pairs.jsonl:17`.
            names: the names in the data, if the row was made of another one.

        Raises:
            RowRejected: the row is malformed.
        """
        names_in_data = self._names | self._aliases(row)
        with located(where):
            try:
                return self._group(row, names_in_data, source=source, row_id=row_id)
            except ColumnRejected as rejection:
                own_names = ColumnNames(names_in_data, mapped=self.columns, present=row.keys())
                advice = (own_names if names is None else names.after(own_names)).leave_unread(rejection.columns)
                detail = f"{rejection.detail}: {advice}" if advice else rejection.detail
                raise RowRejected(rejection.reason, detail) from None

    def _names_in_data(self) -> dict[str, str]:
        """Map each of our columns that is read to its name in the data."""
        names = {}
        for name in COLUMNS:
            # Without a mapping, `input` is read only after `instruction`: elsewhere it may be anything.
            if name not in self.ignored and (name != "input" or name in self.columns):
                names[name] = self.columns.get(name, name)
        return names

    def _group(self, row: Mapping[str, Any], names_in_data: dict[str, str], *, source: str, row_id: str) -> Group:
        """Convert a row without adding its location to a rejection."""
        cells = self._cells(row, names_in_data)
        reader = MessageReader(mark=self.image_mark, json_text=self.of_table)
        given = response_cells(cells, row=row, columns=self.columns)
        names = [response.name for response in given]
        before, responses, placed = self._read_responses(given, reader=reader)
        # The Alpaca columns come second: they are the prompt only if no other column has one.
        self._take_instruction(row, cells, names_in_data, has_prompt=bool(before[0]))
        unread = self._unread(row, cells, names_in_data)
        messages = self._prompt(cells, before, reader=reader, row=row)
        check_prompt_columns(unread, prompt="\n".join(message.text for message in messages))
        images = _image_cells(cells, no_column=not self._has_image_column(row))
        has_images = bool(images or placed) or any(message.image_parts for message in messages)
        check_media(unread, has_images=has_images)
        messages, videos = place_videos(messages, _video_cells(cells))
        turns, references = place_images(messages, images, mark=self.image_mark)
        check_not_empty(turns)
        self.report.skipped.update(dict.fromkeys(sorted(reader.unread)))
        for column in sorted(reader.literal):
            self.report.notes[f"{column} has JSON objects that are no messages; they are read as text"] = None
        self._find_rendered(messages, zip(names, responses, strict=True))
        annotations = read_annotations(cells, names, rating_range=self.rating_range)
        return Group(
            id=_id(cells, default=row_id),
            source=source,
            prompt=turns,
            responses=responses,
            preferences=self._preferences(cells, responses, annotations["ratings"], row=row),
            images=self._visuals(turns, references, videos),
            response_images=placed,
            **annotations,
        )

    def _read_responses(
        self, given: Sequence[ResponseCell], *, reader: MessageReader
    ) -> tuple[list[list[Message]], tuple[str, ...], tuple[tuple[PlacedImage, ...], ...]]:
        """For each response the messages before it, its text and its images; no images if no response has one."""
        before: list[list[Message]] = []
        texts: list[str] = []
        placed: list[tuple[PlacedImage, ...]] = []
        for response in given:
            earlier, message = reader.response(response.value, column=response.name)
            text, images = placed_response(
                message.parts, response, mark=self.image_mark, store=self.images, typed=message.typed
            )
            before.append(earlier)
            texts.append(text)
            placed.append(images)
        return before, tuple(texts), response_images(placed)

    def _visuals(self, turns: Sequence[Turn], images: Sequence[Any], videos: Sequence[Any]) -> tuple[Visual, ...]:
        """Resolve the images and videos of a row, in the order of their places."""
        found = [find_image(image, place=i, images=self.images) for i, image in enumerate(images)]
        clips = [find_video(video, place=i, images=self.images) for i, video in enumerate(videos)]
        return tuple(in_place_order(turns, found, clips))

    def _find_rendered(self, prompt: Sequence[Message], responses: Iterable[tuple[str, str]]) -> None:
        """Report the columns whose text a chat template has rendered; it would be put into the template again."""
        texts = [("prompt", message.text) for message in prompt]
        for name, text in (*texts, *responses):
            if is_rendered(text):
                self.report.rendered[name.partition("[")[0]] = None

    def _cells(self, row: Mapping[str, Any], names_in_data: Mapping[str, str]) -> dict[str, Any]:
        """Return the cells of a row that are not null, by our column names."""
        cells: dict[str, Any] = {}
        for name, name_in_data in names_in_data.items():
            value = row.get(name_in_data)
            if isinstance(value, str):
                value = self._parsed_text(name, value)
            if value is not None:
                cells[name] = value
        return cells

    def _aliases(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Map our columns to their known other names, if the row has these instead."""
        aliases: dict[str, str] = {}
        # Most rows have no alias, and this test costs much less than the search.
        if ALIAS_NAMES.isdisjoint(row):
            return aliases
        mapped = self.ignored.union(self.columns.values())
        for name, others in ALIASES.items():
            if self._has_own_name(name, row):
                continue
            present = [alias for alias in others if alias not in mapped and _is_present_alias(alias, row.get(alias))]
            if present:
                aliases[name] = present[0]
        return aliases

    def _has_own_name(self, name: str, row: Mapping[str, Any]) -> bool:
        """Whether a column of ours needs no alias: the recipe maps or ignores it, or the row has it."""
        if name in self.ignored:
            return True
        own_names = ("images", "image") if name == "images" else (name,)
        return any(own in self.columns or not is_empty(row.get(own)) for own in own_names)

    def _take_instruction(
        self, row: Mapping[str, Any], cells: dict[str, Any], names_in_data: dict[str, str], *, has_prompt: bool
    ) -> None:
        """Add Alpaca's columns to `cells`: `instruction` if the row has no other prompt, and `input` with it."""
        has_instruction = self._is_present("instruction", row)
        has_input = self._is_present("input", row)
        if "prompt" not in cells and not has_prompt and "instruction" in row:
            # If the instruction is empty, the input alone is the prompt.
            names_in_data["prompt"] = "instruction" if has_instruction else "input"
            if has_instruction or has_input:
                cells["prompt"] = row[names_in_data["prompt"]]
        if has_input and names_in_data.get("prompt") == "instruction" and "input" not in self.columns:
            cells["input"], names_in_data["input"] = row["input"], "input"

    def _is_present(self, name: str, row: Mapping[str, Any]) -> bool:
        """Whether a row has a column that is not empty and not ignored."""
        return name not in self.ignored and not is_empty(row.get(name))

    def _unread(
        self, row: Mapping[str, Any], cells: Mapping[str, Any], names_in_data: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return the cells that are not read, by their names in the data, and update the report."""
        read = {name: names_in_data[name] for name in cells}
        self.report.read.update(read)
        return self.report.record_skipped(row, read=self.ignored.union(read.values()))

    def _parsed_text(self, name: str, text: str) -> Any:
        """Convert a cell of text; in files in which all cells are text, lists and numbers are parsed."""
        # An empty cell of a CSV file is a missing value. An empty prompt or response must be reported instead.
        if not text.strip() and name in EMPTY_TEXT_IS_NULL:
            return None
        if not self.of_table:
            return text
        if name in LISTS and text.lstrip().startswith("["):
            return _parsed_list(text)
        return _parsed_number(text) if name in NUMBERS else text

    def _has_image_column(self, row: Mapping[str, Any]) -> bool:
        """Whether the row has an image column, even if it is null: then marks in all texts stand for images."""
        # In calls from Python, null means that there are no images.
        if not self.of_table:
            return False
        return any(self.columns.get(name, name) in row for name in ("images", "image"))

    def _prompt(
        self,
        cells: Mapping[str, Any],
        before: Sequence[list[Message]],
        *,
        reader: MessageReader,
        row: Mapping[str, Any],
    ) -> list[Message]:
        """Assemble the messages of the prompt from all its columns."""
        prompt = reader.read(cells["prompt"], column="prompt") if "prompt" in cells else None
        messages = join_prompt(prompt, before)
        if not messages:
            raise no_prompt(row, columns=self.columns)
        if messages[-1].role != "user":
            detail = f"the prompt ends with a turn of the {messages[-1].role}; its last turn must be the user's"
            raise RowRejected("bad_turns", detail)
        if "input" in cells:
            messages = with_input(messages, cells["input"])
        if not is_empty(cells.get("history")):
            messages = with_history(messages, cells["history"], reader=reader)
        return with_system(messages, cells["system"]) if "system" in cells else messages

    def _preferences(
        self,
        cells: Mapping[str, Any],
        responses: Sequence[str],
        ratings: Sequence[float],
        *,
        row: Mapping[str, Any],
    ) -> tuple[Preference, ...]:
        """Read the preferences of a row; a row for training needs at least one."""
        if self.for_training and len(responses) < 2:
            raise RowRejected("single_response", "`responses` has 1 response; training needs at least 2 to compare")
        preferences = read_preferences(cells, num_responses=len(responses), ratings=ratings)
        if not self.for_training:
            return preferences
        if not preferences:
            detail = "no preference: give `ranking`, `preferences` or `ratings`"
            raise RowRejected("no_preference", f"{detail}. {columns_found(row)}")
        check_ratings(preferences, ratings)
        if not {"chosen", "chosen_images", "ranking", "preferences"}.intersection(cells):
            self.report.notes["responses are ranked by their ratings"] = None
        return preferences


def _is_present_alias(name: str, value: object) -> bool:
    """Whether a cell under another name of one of our columns has a value."""
    if name == "file_name":
        # Elsewhere it may be the name of the file that the row comes from.
        return media_of(name, value) == "image"
    return not is_empty(value)


def _parsed_list(text: str) -> Any:
    """Parse a list in JSON or Python's notation; of any other text, the reader of its column reports the fault."""
    try:
        parsed = decode_json(text.strip())
    except RowRejected:
        parsed = parse_python(text.strip())
    return parsed if isinstance(parsed, list) else text


def _parsed_number(text: str) -> float | str:
    """Parse a number; any other text is returned as it is, and the reader of its column reports the fault."""
    try:
        return float(text)
    except ValueError:
        return text


def _range(bounds: Sequence[float] | None) -> tuple[float, float] | None:
    """Check a recipe's `rating_range`."""
    if bounds is None:
        return None
    if len(bounds) != 2 or not all(map(math.isfinite, bounds)) or bounds[0] >= bounds[1]:
        raise DataError(f"rating_range is {list(bounds)}; the lowest and the highest rating are needed, as in [1, 5]")
    return float(bounds[0]), float(bounds[1])


def _image_cells(cells: Mapping[str, Any], *, no_column: bool) -> list[Any] | None:
    """Return the image references of a row; None if it has no image column."""
    if "images" in cells and "image" in cells:
        raise RowRejected("conflicting_columns", "the row has both `images` and `image`; give one of them")
    images = reference_list(cells.get("images", cells.get("image")))
    return images if images is not None or no_column else []


def _video_cells(cells: Mapping[str, Any]) -> list[Any]:
    """Return the video references of a row."""
    if "videos" in cells and "video" in cells:
        raise RowRejected("conflicting_columns", "the row has both `videos` and `video`; give one of them")
    return reference_list(cells.get("videos", cells.get("video"))) or []


def _id(cells: Mapping[str, Any], *, default: str) -> str:
    """Return the id of a row as a text."""
    value = cells.get("id", default)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowRejected("bad_id", f"`id` is {shown(value)}; a string or an integer is needed")
    return str(value)
