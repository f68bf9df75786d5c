"""Reads rows of preference data in the pair form (`chosen`, `rejected`) or the general form (`responses`).

    {"prompt": str or [messages], "chosen": ..., "rejected": ..., "images": [...], "margin": 1.5, "id": "..."}
    {"prompt": ..., "responses": [...], "ranking": [0, 2, 1], "images": [...]}
    {"prompt": ..., "responses": [...], "preferences": [[winner, loser], ...], "margins": [...]}
    {"prompt": ..., "responses": [...], "ratings": [4, 1, 2]}        ranked by the ratings

`ranking[i]` is the rank of response i; lower is better, and equal ranks are a tie. `prompt` may be absent if `chosen`
and `rejected` are message lists that begin with it. `instruction` with an optional `input` replaces `prompt`. `system`
is the first turn of the prompt, `history` its earlier turns. An image is a path, `{"path": ..., "bytes": ...}`, or a
data URI in base64.

Both forms may have targets for generative heads: `critiques` (one text per response) or `chosen_critique` and
`rejected_critique`; `ratings` from 0 to 1, or `chosen_rating` and `rejected_rating`; `reasonings`, a list of [first,
second, text] in which the text calls the responses with these indices 1 and 2, or `reasoning`, a text about the first
two responses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from basereward.data.images.image_store import ImageStore
from basereward.data.readers.json_lines import decode_json
from basereward.data.schema.annotations import COLUMNS as ANNOTATIONS
from basereward.data.schema.annotations import read_annotations
from basereward.data.schema.columns import (
    ALIAS_NAMES,
    ALIASES,
    ColumnsRead,
    check_media,
    check_prompt_columns,
    like_prompt,
)
from basereward.data.schema.group import Group, Preference
from basereward.data.schema.image_references import find_image, image_list
from basereward.data.schema.messages import PLACE, Message, MessageReader, is_empty, shown
from basereward.data.schema.preferences import check_ratings, read_preferences
from basereward.data.schema.prompts import join_prompt, place_images, with_history, with_input, with_system
from basereward.data.schema.rejections import RowRejected, located
from basereward.errors import DataError, nearest, unknown

COLUMNS = (
    "id", "prompt", "chosen", "rejected", "responses", "ranking", "preferences", "margin", "margins", "images", "image",
    "system", "history", "input", *ANNOTATIONS,
)  # fmt: skip
# In files in which all cells are text, such as CSV, lists are JSON text and numbers are digits.
LISTS = (
    "responses", "ranking", "preferences", "margins", "ratings", "critiques", "reasonings", "history", "images",
    "image",
)  # fmt: skip
NUMBERS = ("margin", "chosen_rating", "rejected_rating")
EMPTY_TEXT_IS_NULL = ("images", "image", "system", "history", "input")


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
        self.columns = {name: own for name, own in (columns or {}).items() if own is not None}
        self.ignored = frozenset(name for name, own in (columns or {}).items() if own is None)
        for name in self.columns:
            if name not in COLUMNS:
                raise DataError(f"columns: {unknown('column', name, COLUMNS)}")
        self.images = images or ImageStore()
        self.for_training = for_training
        self.of_table = of_table
        self.image_mark = image_mark or None
        self.rating_range = _range(rating_range)
        self.report = ColumnsRead()
        unmapped = self.ignored if "input" in self.columns else self.ignored | {"input"}
        self._own = {name: self.columns.get(name, name) for name in COLUMNS if name not in unmapped}

    def group(self, row: Mapping[str, Any], *, source: str, row_id: str, where: str) -> Group:
        """Convert a row to a group. Images are not opened; `check_usable` checks whether it is usable for training.

        Args:
            row: the cells by column.
            source: the name of the source.
            row_id: the id of the group if the row has none.
            where: the location of the row for messages, such as `pairs.jsonl:17`.

        Raises:
            RowRejected: the row is malformed.
        """
        with located(where):
            return self._group(row, source=source, row_id=row_id)

    def _group(self, row: Mapping[str, Any], *, source: str, row_id: str) -> Group:
        own = self._own | self._aliases(row)
        cells: dict[str, Any] = {}
        for ours, theirs in own.items():
            value = row.get(theirs)
            if isinstance(value, str):
                value = self._cell(ours, value)
            if value is not None:
                cells[ours] = value
        reader = MessageReader(mark=self.image_mark, json_text=self.of_table)
        names, values = self._responses(cells, row=row)
        read = [reader.response(value, column=name) for name, value in zip(names, values, strict=True)]
        before, responses = zip(*read, strict=True)
        # The Alpaca columns come second: they are the prompt only if no other column has one.
        self._take_instruction(row, cells, own, has_prompt=bool(before[0]))
        unread = self._unread(row, cells, own)
        messages = self._prompt(cells, before, reader=reader, row=row)
        check_prompt_columns(unread, prompt="\n".join(message.text for message in messages))
        images = _image_cells(cells, no_column=not self._has_image_column(row))
        check_media(unread, has_images=bool(images) or any(message.image_parts for message in messages))
        turns, references = place_images(messages, images, mark=self.image_mark)
        self.report.passed.update(dict.fromkeys(sorted(reader.unread)))
        annotations = read_annotations(cells, names, rating_range=self.rating_range)
        return Group(
            id=_id(cells, default=row_id),
            source=source,
            prompt=turns,
            responses=responses,
            preferences=self._preferences(cells, responses, annotations["ratings"], row=row),
            images=tuple(find_image(image, place=i, images=self.images) for i, image in enumerate(references)),
            **annotations,
        )

    def _aliases(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Map our columns to their known other names, if the row has these instead."""
        aliases: dict[str, str] = {}
        if ALIAS_NAMES.isdisjoint(row):
            return aliases
        mapped = self.ignored.union(self.columns.values())
        for name, others in ALIASES.items():
            own = ("images", "image") if name == "images" else (name,)
            if name in self.ignored or any(column in self.columns or not is_empty(row.get(column)) for column in own):
                continue
            present = [alias for alias in others if alias not in mapped and not is_empty(row.get(alias))]
            if present:
                aliases[name] = present[0]
        return aliases

    def _take_instruction(
        self, row: Mapping[str, Any], cells: dict[str, Any], own: dict[str, str], *, has_prompt: bool
    ) -> None:
        """Add Alpaca's columns to `cells`: `instruction` if the row has no other prompt, and `input` with it."""
        alpaca = {
            name: row[name]
            for name in ("instruction", "input")
            if name not in self.ignored and not is_empty(row.get(name))
        }
        if "prompt" not in cells and not has_prompt and "instruction" in row:
            own["prompt"] = "instruction" if "instruction" in alpaca else "input"
            if own["prompt"] in alpaca:
                cells["prompt"] = alpaca[own["prompt"]]
        if "input" in alpaca and own.get("prompt") == "instruction" and "input" not in self.columns:
            cells["input"], own["input"] = alpaca["input"], "input"

    def _unread(self, row: Mapping[str, Any], cells: Mapping[str, Any], own: Mapping[str, str]) -> dict[str, Any]:
        """Return the cells that are not read, by their names in the data, and update the report."""
        self.report.read.update({ours: own[ours] for ours in cells})
        return self.report.passed_over(row, read={own[ours] for ours in cells} | self.ignored)

    def _cell(self, name: str, value: str) -> Any:
        """Convert a cell of text; in files in which all cells are text, lists and numbers are parsed."""
        if not value.strip() and name in EMPTY_TEXT_IS_NULL:
            return None
        if self.of_table and name in LISTS and value.lstrip().startswith("["):
            try:
                parsed = decode_json(value.strip())
            except RowRejected:
                return value  # the reader of this column reports the fault
            return parsed if isinstance(parsed, list) else value
        if self.of_table and name in NUMBERS:
            try:
                return float(value)
            except ValueError:
                return value
        return value

    def _has_image_column(self, row: Mapping[str, Any]) -> bool:
        """Whether the row has an image column, even if it is null: then marks in all texts stand for images."""
        if not self.of_table:
            return False  # in calls from Python, null means that there are no images
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
            raise self._no_prompt(row)
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
        if self.for_training and len(responses) < 2:
            raise RowRejected("single_response", "`responses` has 1 response; training needs at least 2 to compare")
        preferences = read_preferences(cells, num_responses=len(responses), ratings=ratings)
        if not self.for_training:
            return preferences
        if not preferences:
            detail = "no preference: give `ranking`, `preferences` or `ratings`"
            raise RowRejected("no_preference", f"{detail}. {_found(list(row))}")
        check_ratings(preferences, ratings)
        if not {"chosen", "ranking", "preferences"}.intersection(cells):
            self.report.notes["responses are ranked by their ratings"] = None
        return preferences

    def _no_prompt(self, row: Mapping[str, Any]) -> RowRejected:
        own = self.columns.get("prompt", "prompt")
        others = [name for name in row if name != own and name not in self.columns.values()]
        close = like_prompt(others)
        hint = f"'{close[:60]}' looks like it: columns: {{prompt: {close[:60]}}}. " if close else ""
        if not close and all(isinstance(row.get(name), str) for name in ("chosen", "rejected")):
            hint = "If both responses begin with the prompt, split it off, as TRL's extract_prompt does. "
        detail = f"there is no prompt: no column '{own}', and no turn before the responses. {hint}"
        return RowRejected("no_prompt", f"{detail}{_found(list(row))}")

    def _responses(self, cells: Mapping[str, Any], *, row: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
        """Return the names of the responses for messages, and their cells; in pairs, the chosen one is first."""
        pair = [name for name in ("chosen", "rejected") if name in cells]
        if pair and "responses" in cells:
            raise RowRejected(
                "conflicting_columns", f"the row has both `responses` and `{pair[0]}`; one form is needed"
            )
        if len(pair) == 2:
            return pair, [cells[name] for name in pair]
        if pair:
            raise self._missing(["rejected" if pair == ["chosen"] else "chosen"], row=row)
        if "responses" not in cells:
            missing = ["responses"] if "responses" in self.columns else ["chosen", "rejected"]
            raise self._missing(missing, row=row)
        responses = cells["responses"]
        if not isinstance(responses, list) or not responses:
            raise RowRejected(
                "wrong_type", f"`responses` is {shown(responses)}; a list of at least one response is needed"
            )
        return [f"responses[{i}]" for i in range(len(responses))], responses

    def _missing(self, ours: Sequence[str], *, row: Mapping[str, Any]) -> RowRejected:
        names = [self.columns.get(name, name) for name in ours]
        null = [name for name in names if name in row]
        if null:
            return RowRejected("null_response", f"'{null[0]}' is null; a response must be a text")
        others = [str(name)[:60] for name in row if name not in names]
        hints = []
        for name in ours:
            close = nearest(self.columns.get(name, name), others)
            if close:
                hints.append(f"'{close}' looks like it: columns: {{{name}: {close}}}")
        general = ", or `responses`" if len(names) == 2 else ""
        listed = " and ".join(f"'{name}'" for name in names)
        return RowRejected("missing_column", ". ".join([f"missing: {listed}{general}", *hints, _found(list(row))]))


def _range(bounds: Sequence[float] | None) -> tuple[float, float] | None:
    if bounds is None:
        return None
    if len(bounds) != 2 or not all(map(math.isfinite, bounds)) or bounds[0] >= bounds[1]:
        raise DataError(f"rating_range is {list(bounds)}; the lowest and the highest rating are needed, as in [1, 5]")
    return float(bounds[0]), float(bounds[1])


def _image_cells(cells: Mapping[str, Any], *, no_column: bool) -> list[Any] | None:
    """Return the image references of a row; None if it has no image column."""
    if "images" in cells and "image" in cells:
        raise RowRejected("conflicting_columns", "the row has both `images` and `image`; give one of them")
    images = image_list(cells.get("images", cells.get("image")))
    return images if images is not None or no_column else []


def _id(cells: Mapping[str, Any], *, default: str) -> str:
    value = cells.get("id", default)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowRejected("bad_id", f"`id` is {shown(value)}; a string or an integer is needed")
    return str(value)


def _found(columns: Sequence[str]) -> str:
    names = [str(name)[:60] for name in columns[:30]]
    more = f" and {len(columns) - 30} more" if len(columns) > 30 else ""
    return f"Columns found: {', '.join(names) or 'none'}{more}."
