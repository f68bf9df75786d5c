"""Reads the responses of a row: their cells in either form, and the images in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.group import Image, PlacedImage, Turn
from basereward.data.schema.image_references import find_image, reference_list
from basereward.data.schema.messages import ImagePart, Message, VideoPart, shown
from basereward.data.schema.missing_columns import missing_response
from basereward.data.schema.prompts import place_images
from basereward.data.schema.rejections import RowRejected

PAIR = ("chosen", "rejected")
# The images of the responses in the pair form and in the general form.
PAIR_IMAGES = ("chosen_images", "rejected_images")
IMAGE_COLUMNS = ("response_images", *PAIR_IMAGES)
IN_COLUMNS = (
    "The images of a response are in its parts, or in the columns `response_images` or `chosen_images` and "
    "`rejected_images`"
)


@dataclass(frozen=True, slots=True)
class ResponseCell:
    """One response as it stands in a row.

    Attributes:
        name: of its column or place, for messages.
        value: a text or messages; an empty text for a response that is only images.
        images: references of its images in an image column; None: the row has no such column.

    >>> ResponseCell("responses[0]", "4", None).images is None
    True
    """

    name: str
    value: Any
    images: list[Any] | None


def response_cells(
    cells: Mapping[str, Any], *, row: Mapping[str, Any], columns: Mapping[str, str]
) -> list[ResponseCell]:
    """List the responses of a row; in pairs, the chosen one is first.

    Args:
        cells: the cells of the row by our column names.
        row: the row, for messages.
        columns: our column name -> the name in the data, as in a recipe.

    Raises:
        RowRejected: `conflicting_columns`, `wrong_type`, `image_in_response` (only one response of a pair has a column
            of images), or a response is missing.

    >>> cells = {"chosen_images": ["a.png"], "rejected_images": ["b.png"]}
    >>> [(cell.value, cell.images) for cell in response_cells(cells, row=cells, columns={})]
    [('', ['a.png']), ('', ['b.png'])]
    """
    pair = [name for name in (*PAIR, *PAIR_IMAGES) if name in cells]
    if "responses" in cells or "response_images" in cells:
        if pair:
            form = "responses" if "responses" in cells else "response_images"
            detail = f"the row has both `{form}` and `{pair[0]}`; one form is needed"
            raise RowRejected("conflicting_columns", detail)
        return _numbered(cells)
    return _pair(cells, row=row, columns=columns)


def _numbered(cells: Mapping[str, Any]) -> list[ResponseCell]:
    """The responses of the general form."""
    images = _lists_of_images(cells["response_images"]) if "response_images" in cells else None
    # Responses that are images alone need no texts.
    responses = cells["responses"] if "responses" in cells or images is None else [""] * len(images)
    if not isinstance(responses, list) or not responses:
        raise RowRejected("wrong_type", f"`responses` is {shown(responses)}; a list of at least one response is needed")
    if images is not None and len(images) != len(responses):
        detail = f"`response_images` has {len(images)} lists of images and `responses` has {len(responses)} responses"
        raise RowRejected("wrong_count", f"{detail}; give one list for each response, [] for one without images")
    named = []
    for index, response in enumerate(responses):
        named.append(ResponseCell(f"responses[{index}]", response, None if images is None else images[index]))
    return named


def _lists_of_images(value: object) -> list[list[Any]]:
    """Check the cell of `response_images`: for each response a list, one image, or null."""
    if not isinstance(value, list):
        detail = f"`response_images` is {shown(value)}; a list with a list of images for each response is needed"
        raise RowRejected("wrong_type", detail)
    return [reference_list(images) or [] for images in value]


def _pair(cells: Mapping[str, Any], *, row: Mapping[str, Any], columns: Mapping[str, str]) -> list[ResponseCell]:
    """The responses of the pair form."""
    with_images = [name for name in PAIR_IMAGES if name in cells]
    if len(with_images) == 1:
        # Other trainers give the images of the worse response's prompt this name, so one column alone may be these.
        detail = f"the row has `{with_images[0]}` alone; give `chosen_images` and `rejected_images`, [] for no images"
        raise RowRejected("image_in_response", detail)
    missing = [name for name in PAIR if name not in cells]
    # Two responses that are images alone need no texts.
    if missing and not (with_images and missing == list(PAIR)):
        raise missing_response(_names_of_missing(missing, columns), row=row, columns=columns)
    responses = []
    for name, images in zip(PAIR, PAIR_IMAGES, strict=True):
        responses.append(ResponseCell(name, cells.get(name, ""), reference_list(cells.get(images))))
    return responses


def _names_of_missing(missing: list[str], columns: Mapping[str, str]) -> list[str]:
    """The columns that a message names: the general form's if the recipe maps it and there is none of the pair form."""
    return ["responses"] if missing == list(PAIR) and "responses" in columns else missing


def placed_response(
    parts: tuple[str | ImagePart | VideoPart, ...],
    cell: ResponseCell,
    *,
    mark: str | None,
    store: ImageStore,
    typed: bool,
) -> tuple[str, tuple[PlacedImage, ...]]:
    """The text of a response and its images with their places.

    Places are the image parts; without any, and with a column of images, each mark in the text. Images without places
    stand before the text, as in prompts.

    Args:
        parts: of the message.
        cell: the response in the row.
        mark: the text that stands for an image; None: no text does.
        store: resolves image paths.
        typed: whether the content of the message is a list of parts.

    Raises:
        RowRejected: `image_count`, `conflicting_columns`, or a reference is malformed.

    >>> cell = ResponseCell("chosen", "Here: <image>", ["cat.png"])
    >>> text, images = placed_response(("Here: <image>",), cell, mark="<image>", store=ImageStore(), typed=False)
    >>> text, images[0].offset, str(images[0].image)
    ('Here: ', 6, 'cat.png')
    """
    if not cell.images and not any(isinstance(part, ImagePart) for part in parts):
        # A mark in a response without images is a word of its text.
        return "".join(part for part in parts if isinstance(part, str)), ()
    try:
        message = Message("user", parts, typed=typed)
        (turn,), references = place_images([message], cell.images, mark=mark, subject="the response")
        images = [find_image(image, place=i, images=store) for i, image in enumerate(references)]
    except RowRejected as rejection:
        hint = "" if rejection.reason != "image_count" or cell.images else f". {IN_COLUMNS}"
        raise RowRejected(rejection.reason, f"`{cell.name}`: {rejection.detail}{hint}") from None
    return _with_offsets(turn, images)


def _with_offsets(turn: Turn, images: Sequence[Image]) -> tuple[str, tuple[PlacedImage, ...]]:
    """The text of a turn, and the images in the places of its image parts."""
    text = ""
    placed: list[PlacedImage] = []
    for part in turn.parts:
        if part.text is None:
            placed.append(PlacedImage(len(text), images[len(placed)]))
        else:
            text += part.text
    return text, tuple(placed)


def response_images(placed: Sequence[tuple[PlacedImage, ...]]) -> tuple[tuple[PlacedImage, ...], ...]:
    """The images of all responses as a group has them: none at all if no response has one.

    >>> response_images([(), ()])
    ()
    """
    return tuple(placed) if any(placed) else ()
