"""Rows of preference data -> groups: the pair form (`chosen`, `rejected`) and the general form (`responses`).

    {"prompt": str or [messages], "chosen": ..., "rejected": ..., "images": [...], "margin": 1.5, "id": "..."}
    {"prompt": ..., "responses": [...], "ranking": [0, 2, 1], "images": [...]}
    {"prompt": ..., "responses": [...], "preferences": [[winner, loser], ...], "margins": [...]}

Every form may have what heads that write learn: `critiques`, a text for each response, or `chosen_critique` and
`rejected_critique`; `ratings` from 0 to 1, or `chosen_rating` and `rejected_rating`; `reasonings`, lists of the places
of two responses, which the text calls 1 and 2, and the text, or `reasoning`, a text about the row's first two.

`prompt` may be absent when `chosen` and `rejected` are message lists that begin with it. `ranking[i]` is the rank of
response i, lower is better, equal is a tie. An image is a path, `{"path": ..., "bytes": ...}`, or a data URI (base64).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from basereward.data.group import Group
from basereward.data.image_reference import find_image, image_list
from basereward.data.image_store import ImageStore
from basereward.data.messages import join_prompt, place_images, read_messages, read_response, shown
from basereward.data.preferences import read_preferences
from basereward.data.screening import RowLost, located
from basereward.data.told import COLUMNS as TOLD
from basereward.data.told import read_told
from basereward.errors import DataError, nearest, unknown

COLUMNS = (
    "id", "prompt", "chosen", "rejected", "responses", "ranking", "preferences", "margin", "margins", "images", "image",
    *TOLD,
)  # fmt: skip
LIKE_IMAGES = frozenset(
    {"img", "imgs", "image_path", "image_paths", "img_path", "img_paths", "image_file", "image_files", "pictures"}
)


class RowFormat:
    """How rows are read.

    Args:
        columns: our column name -> the data's own, for data that name them otherwise.
        images: where the pictures that rows name are looked for.
        for_training: whether a row needs two responses and a preference; without, one response will do.

    Raises:
        DataError: `columns` names a column that we do not have.
    """

    def __init__(
        self,
        *,
        columns: Mapping[str, str] | None = None,
        images: ImageStore | None = None,
        for_training: bool = True,
    ) -> None:
        for name in columns or {}:
            if name not in COLUMNS:
                raise DataError(f"columns: {unknown('column', name, COLUMNS)}")
        self.columns = dict(columns or {})
        self.images = images or ImageStore()
        self.for_training = for_training

    def group(self, row: Mapping[str, Any], *, source: str, row_id: str, where: str) -> Group:
        """The group that a row holds. Its pictures are not opened, and it may still be of no use (see `check_usable`).

        Args:
            row_id: the group's id when the row has none.
            where: what messages call the row, such as `pairs.jsonl:17`.

        Raises:
            RowLost: the row is malformed; the reason names the fault, the detail says where and how.
        """
        with located(where):
            return self._group(row, source=source, row_id=row_id)

    def _group(self, row: Mapping[str, Any], *, source: str, row_id: str) -> Group:
        cells = self._cells(row)
        names, values = self._responses(cells, row=row)
        before, responses = zip(*[read_response(v, column=n) for n, v in zip(names, values, strict=True)], strict=True)
        prompt = read_messages(cells["prompt"], column="prompt") if "prompt" in cells else None
        turns, images = place_images(join_prompt(prompt, before), _image_cells(cells))
        if self.for_training and len(responses) < 2:
            raise RowLost("single_response", "`responses` has 1 response; training needs at least 2 to compare")
        preferences = read_preferences(cells, num_responses=len(responses))
        if self.for_training and not preferences:
            raise RowLost("no_preference", f"no preference: give `ranking` or `preferences`. {_found(list(row))}")
        return Group(
            id=_id(cells, default=row_id),
            source=source,
            prompt=turns,
            responses=responses,
            preferences=preferences,
            images=tuple(find_image(image, place=i, images=self.images) for i, image in enumerate(images)),
            **read_told(cells, names),
        )

    def _cells(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row's cells that are not null, under our names.

        A column that is not ours is left alone, unless it must mean the pictures, which would be lost with it.
        """
        cells = {ours: row.get(self.columns.get(ours, ours)) for ours in COLUMNS}
        taken = set(self.columns.values())
        for name, value in row.items():
            if not value or name in taken:
                continue
            if name in ("video", "videos"):
                raise RowLost("video", f"the row has a `{name}`; videos cannot be used")
            if name in LIKE_IMAGES and cells["images"] is None and cells["image"] is None:
                mapping = f"columns: {{images: {name}}}"
                raise RowLost(
                    "image_column_not_mapped", f"column '{name}' is not read; if these are the images: {mapping}"
                )
        return {name: value for name, value in cells.items() if value is not None}

    def _responses(self, cells: Mapping[str, Any], *, row: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
        """The responses' names for messages, and the responses. Of a pair the chosen one is first."""
        pair = [name for name in ("chosen", "rejected") if name in cells]
        if pair and "responses" in cells:
            raise RowLost("conflicting_columns", f"the row has both `responses` and `{pair[0]}`; one form is needed")
        if len(pair) == 2:
            return pair, [cells[name] for name in pair]
        if pair:
            raise self._missing(["rejected" if pair == ["chosen"] else "chosen"], row=row)
        if "responses" not in cells:
            missing = ["responses"] if "responses" in self.columns else ["chosen", "rejected"]
            raise self._missing(missing, row=row)
        responses = cells["responses"]
        if not isinstance(responses, list) or not responses:
            raise RowLost("wrong_type", f"`responses` is {shown(responses)}; a list of at least one response is needed")
        return [f"responses[{i}]" for i in range(len(responses))], responses

    def _missing(self, ours: Sequence[str], *, row: Mapping[str, Any]) -> RowLost:
        names = [self.columns.get(name, name) for name in ours]
        null = [name for name in names if name in row]
        if null:
            return RowLost("null_response", f"'{null[0]}' is null; a response is a text")
        others = [str(name)[:60] for name in row if name not in names]
        hints = [
            f"'{close}' looks like it: columns: {{{name}: {close}}}"
            for name in ours
            if (close := nearest(self.columns.get(name, name), others))
        ]
        general = ", or `responses`" if len(names) == 2 else ""
        listed = " and ".join(f"'{name}'" for name in names)
        return RowLost("missing_column", ". ".join([f"missing: {listed}{general}", *hints, _found(list(row))]))


def _image_cells(cells: Mapping[str, Any]) -> list[Any] | None:
    if "images" in cells and "image" in cells:
        raise RowLost("conflicting_columns", "the row has both `images` and `image`; give one of them")
    return image_list(cells.get("images", cells.get("image")))


def _id(cells: Mapping[str, Any], *, default: str) -> str:
    value = cells.get("id", default)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowLost("bad_id", f"`id` is {shown(value)}; a string or a whole number is needed")
    return str(value)


def _found(columns: Sequence[str]) -> str:
    names = [str(name)[:60] for name in columns[:30]]
    more = f" and {len(columns) - 30} more" if len(columns) > 30 else ""
    return f"Columns found: {', '.join(names) or 'none'}{more}."
