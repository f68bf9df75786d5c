"""Rows of preference data -> groups: the pair form (`chosen`, `rejected`) and the general form (`responses`).

    {"prompt": str or [messages], "chosen": ..., "rejected": ..., "images": [...], "margin": 1.5, "id": "..."}
    {"prompt": ..., "responses": [...], "ranking": [0, 2, 1], "images": [...]}
    {"prompt": ..., "responses": [...], "preferences": [[winner, loser], ...], "margins": [...]}

`prompt` may be absent when `chosen` and `rejected` are message lists that begin with it. `ranking[i]` is the rank of
response i, lower is better, equal is a tie. An image is a path, `{"path": ..., "bytes": ...}`, or a data URI (base64).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image

from basereward.data.group import Group, Image
from basereward.data.messages import join_prompt, place_images, read_messages, read_response, shown
from basereward.data.preferences import read_preferences
from basereward.errors import DataError, nearest, unknown

COLUMNS = (
    "id", "prompt", "chosen", "rejected", "responses", "ranking", "preferences", "margin", "margins", "images", "image",
)  # fmt: skip
LIKE_IMAGES = frozenset(
    {"img", "imgs", "image_path", "image_paths", "img_path", "img_paths", "image_file", "image_files", "pictures"}
)
DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,")


class RowFormat:
    """How rows are read.

    Args:
        columns: our column name -> the data's own, for data that name them otherwise.
        images_root: the folder that relative image paths start from.
        for_training: whether a row needs two responses and a preference; without, one response will do.

    Raises:
        DataError: `columns` names a column that we do not have.
    """

    def __init__(
        self,
        *,
        columns: Mapping[str, str] | None = None,
        images_root: str | Path | None = None,
        for_training: bool = True,
    ) -> None:
        for name in columns or {}:
            if name not in COLUMNS:
                raise DataError(f"columns: {unknown('column', name, COLUMNS)}")
        self.columns = dict(columns or {})
        self.images_root = Path(images_root) if images_root is not None else Path()
        self.for_training = for_training

    def group(self, row: Mapping[str, Any], *, source: str, row_id: str, where: str) -> Group:
        """The group that a row holds. Pictures are not opened, and blank responses are let pass (see `find_blank`).

        Args:
            row_id: the group's id when the row has none.
            where: what messages call the row, such as `pairs.jsonl:17`.

        Raises:
            DataError: the row is malformed; the message says where and how.
        """
        try:
            return self._group(row, source=source, row_id=row_id)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None

    def _group(self, row: Mapping[str, Any], *, source: str, row_id: str) -> Group:
        cells = self._cells(row)
        names, values = self._responses(cells, found=list(row))
        before, responses = zip(*[read_response(v, column=n) for n, v in zip(names, values, strict=True)], strict=True)
        prompt = read_messages(cells["prompt"], column="prompt") if "prompt" in cells else None
        turns, images = place_images(join_prompt(prompt, before), _image_cells(cells))
        if self.for_training and len(responses) < 2:
            raise DataError("`responses` has 1 response; training needs at least 2 to compare")
        preferences = read_preferences(cells, num_responses=len(responses))
        if self.for_training and not preferences:
            raise DataError(f"no preference: give `ranking` or `preferences`. {_found(list(row))}")
        return Group(
            id=_id(cells, default=row_id),
            source=source,
            prompt=turns,
            responses=responses,
            preferences=preferences,
            images=tuple(self._image(image, place=i) for i, image in enumerate(images)),
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
                raise DataError(f"the row has a `{name}`; videos cannot be used")
            if name in LIKE_IMAGES and cells["images"] is None and cells["image"] is None:
                raise DataError(f"column '{name}' is not read; if these are the images: columns: {{images: {name}}}")
        return {name: value for name, value in cells.items() if value is not None}

    def _responses(self, cells: Mapping[str, Any], *, found: Sequence[str]) -> tuple[list[str], list[Any]]:
        """The responses' names for messages, and the responses. Of a pair the chosen one is first."""
        pair = [name for name in ("chosen", "rejected") if name in cells]
        if pair and "responses" in cells:
            raise DataError(f"the row has both `responses` and `{pair[0]}`; one form is needed")
        if len(pair) == 2:
            return pair, [cells[name] for name in pair]
        if pair:
            raise DataError(self._missing(["rejected" if pair == ["chosen"] else "chosen"], found=found))
        if "responses" not in cells:
            missing = ["responses"] if "responses" in self.columns else ["chosen", "rejected"]
            raise DataError(self._missing(missing, found=found))
        responses = cells["responses"]
        if not isinstance(responses, list) or not responses:
            raise DataError(f"`responses` is {shown(responses)}; a list of at least one response is needed")
        return [f"responses[{i}]" for i in range(len(responses))], responses

    def _missing(self, ours: Sequence[str], *, found: Sequence[str]) -> str:
        names = [self.columns.get(name, name) for name in ours]
        others = [str(name) for name in found if name not in names]
        hints = [
            f"'{close}' looks like it: columns: {{{name}: {close}}}"
            for name in ours
            if (close := nearest(self.columns.get(name, name), others))
        ]
        general = ", or `responses`" if len(names) == 2 else ""
        listed = " and ".join(f"'{name}'" for name in names)
        return ". ".join([f"missing or null: {listed}{general}", *hints, _found(found)])

    def _image(self, image: object, *, place: int) -> Image:
        if isinstance(image, Mapping):
            content, path = image.get("bytes"), image.get("path")
            image = content if content is not None else path
            if isinstance(content, str):
                image = _from_base64(content, place=place)
        if image is None:
            return b""  # a null among the images: no bytes, which opening it will say
        if isinstance(image, bytes | PIL.Image.Image):
            return image
        if not isinstance(image, str | Path) or not str(image):
            raise DataError(f"images[{place}] is {shown(image)}; a path, bytes or a data URI is needed")
        if match := DATA_URI.match(str(image)):
            return _from_base64(str(image)[match.end() :], place=place)
        if str(image).startswith(("http://", "https://")):
            raise DataError(
                f"images[{place}] is the address {image}; nothing is fetched: download it and give its path"
            )
        return self.images_root / image


def find_blank(group: Group) -> str | None:
    """Which responses are blank, for the list of lost rows; None when none is."""
    blank = [str(i) for i, response in enumerate(group.responses) if not response.strip()]
    return f"response {', '.join(blank)} of {len(group.responses)} is blank" if blank else None


def _image_cells(cells: Mapping[str, Any]) -> list[Any] | None:
    if "images" in cells and "image" in cells:
        raise DataError("the row has both `images` and `image`; give one of them")
    images = cells.get("images", cells.get("image"))
    return images if images is None or isinstance(images, list) else [images]


def _from_base64(text: str, *, place: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise DataError(f"images[{place}]: its base64 is broken: {error}") from None


def _id(cells: Mapping[str, Any], *, default: str) -> str:
    value = cells.get("id", default)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"`id` is {shown(value)}; a string or a whole number is needed")
    return str(value)


def _found(columns: Sequence[str]) -> str:
    return f"Columns found: {', '.join(map(str, columns)) or 'none'}."
