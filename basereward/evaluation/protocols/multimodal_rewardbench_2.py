"""Multimodal RewardBench 2 (arXiv 2512.16899): pairs with images in prompts or responses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError
from basereward.evaluation.items import Decision, Item, JudgedItem, by_label
from basereward.evaluation.protocols import Protocol
from basereward.evaluation.protocols._rows import one_of, text
from basereward.evaluation.statistics.measures import Measure, Measures, Variant
from basereward.evaluation.statistics.shares import Added, count, share

# Where the text of a prompt refers to its images.
NUMBERED_IMAGE = re.compile(r"<image_\d+>")
ANSWERS = ("A", "B")


class MultimodalRewardBench2(Protocol):
    """Rows of `prompt_text` and `prompt_images`, two responses of text and images, and which one is `chosen`.

    Rows of the authors' files are read as well: their `prompt_content` and their responses (`response_a`,
    `response_b`) are lists of [kind, content].

    The variant `both_orders` pools the verdicts on all pairs in both orders; missing verdicts are not in the
    denominator. Scores do not depend on an order, so that every pair counts twice. The measure `text_only` is on the
    pairs whose responses have no images.
    Where rows name their task (`part`), there is a measure for each task, and `overall` pools all of them, as the
    authors' script does: a task with more verdicts counts for more.

    >>> list(MultimodalRewardBench2().variants)
    ['both_orders']
    """

    columns = ("chosen",)
    optional_columns: ClassVar[Mapping[str, str]] = {
        "pair_id": "or `id`",
        "prompt_text": "with `<image_N>` for images, and `prompt_images`",
        "prompt_content": "of the authors' files, in place of these two: a list of [kind, content]",
        "response_a_text": "with `response_a_images`, and the same of b",
        "response_a": "of the authors' files, in place of these two: with `response_content`; and `response_b`",
        "prompt_source": "the data set that the prompt is from",
        "part": "the task",
    }

    @property
    def variants(self) -> Mapping[str, Variant]:
        """`both_orders` (published)."""
        return {"both_orders": _both_orders}

    def item(self, row: Mapping[str, Any], *, number: int, images: ImageStore) -> Item:
        """Convert a row to an item.

        Raises:
            RowRejected: there is no prompt, a response is empty, or the chosen one is neither A nor B.
        """
        row = _flat(row)
        right = ANSWERS.index(one_of({**row, "chosen": str(row["chosen"]).upper()}, "chosen", ANSWERS))
        pictures = list(row.get("prompt_images") or [])
        drawn = any(row.get(f"response_{name}_images") for name in "ab")
        labels = {"source": str(row.get("prompt_source") or ""), "answers": "with_images" if drawn else "text"}
        prompt_id = str(row["pair_id"])
        if row.get("part") is not None:
            labels["task"] = str(row["part"])
            prompt_id = f"{row['part']}/{prompt_id}"
        return Item(
            row=number,
            id=str(row["pair_id"]),
            prompt=_with_places(text(row, "prompt_text"), len(pictures)),
            responses=(_answer(row, "a"), _answer(row, "b")),
            response_images=(_images(row, "a"), _images(row, "b")) if drawn else (),
            right=(right,),
            wrong=(1 - right,),
            prompt_id=prompt_id,
            labels=labels,
            images=tuple(pictures),
        )


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a row of the authors' files to the columns of the hub; rows of the hub stay as they are.

    Raises:
        RowRejected: the prompt or the id is missing, or a list of content is malformed.
    """
    flat = dict(row)
    flat["pair_id"] = row.get("pair_id") if row.get("pair_id") is not None else row.get("id")
    if row.get("prompt_content") is not None:
        flat["prompt_text"], flat["prompt_images"] = _content(row["prompt_content"], "prompt_content")
    for name in ("response_a", "response_b"):
        if isinstance(row.get(name), Mapping):
            content = row[name].get("response_content")
            flat[f"{name}_text"], flat[f"{name}_images"] = _content(content, f"{name}.response_content")
    if flat["pair_id"] is None:
        raise RowRejected("missing_column", f"missing or empty: pair_id. Columns found: {', '.join(map(str, row))}.")
    if flat.get("prompt_text") is None:
        hint = " If it is there under another name, map it: columns.prompt_text=..."
        if "response_a" in row:
            hint = (
                " This is a row of the authors' *_response_only.json, which have no prompts: benchmark/run_release.sh "
                "of their repository adds them and writes reasoning.json; give that file."
            )
        raise RowRejected(
            "missing_column", f"missing or empty: prompt_text. Columns found: {', '.join(map(str, row))}.{hint}"
        )
    return flat


def _content(value: Any, column: str) -> tuple[str, list[str]]:
    """Split a list of [kind, content] into a text, with numbered places for the images, and the images."""
    pieces: list[Any] = value if isinstance(value, list) else [None]
    if not all(map(_is_piece, pieces)):
        raise RowRejected(
            "wrong_type", f'`{column}` is {shown(value)}; a list of ["text" or "image", content] is needed'
        )
    images: list[str] = []
    words = ""
    for kind, content in pieces:
        if kind == "text":
            words += content
        else:
            words += f"<image_{len(images)}>"
            images.append(content)
    return words, images


def _is_piece(value: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    return value[0] in ("text", "image") and isinstance(value[1], str)


def _with_places(words: str, number: int) -> str:
    """Replace numbered places of images by `<image>`, in their order; without any, images come after the text.

    Args:
        words: the text of the prompt or of a response.
        number: of images.
    """
    text_with_places, places = NUMBERED_IMAGE.subn("<image>", words)
    return text_with_places if places else "\n".join([*filter(None, [text_with_places]), *["<image>"] * number])


def _answer(row: Mapping[str, Any], name: str) -> str:
    words = str(row.get(f"response_{name}_text") or "")
    if not words and not row.get(f"response_{name}_images"):
        raise RowRejected("empty_response", f"`response_{name}_text` and `response_{name}_images` are both empty")
    # Without images, marks are words of the text.
    images = _images(row, name)
    return _with_places(words, len(images)) if images else words


def _images(row: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    return tuple(row.get(f"response_{name}_images") or ())


def _both_orders(judged: Sequence[JudgedItem]) -> Measures:
    for judged_item in judged:
        votes = len(judged_item.outcome.votes or ())
        if votes % 2:
            raise DataError(
                f"row {judged_item.item.row} ('{judged_item.item.id}') has {votes} verdicts; Multimodal RewardBench 2 "
                "counts both orders, so that an even number is needed (--order both)"
            )
    text_only = [judged_item for judged_item in judged if judged_item.item.labels["answers"] == "text"]
    measures = {"overall": _pooled(judged), "text_only": _pooled(text_only)}
    if all("task" in judged_item.item.labels for judged_item in judged):
        measures |= {task: _pooled(members) for task, members in by_label(judged, "task").items()}
    return measures


def _pooled(judged: Sequence[JudgedItem]) -> Measure:
    missing = sum((judged_item.outcome.votes or ()).count(None) for judged_item in judged)
    added = [_decisions(judged_item) for judged_item in judged]
    return share(added, ties=count(judged, Decision.TIE), undecided=missing)


def _decisions(judged_item: JudgedItem) -> Added:
    item, votes = judged_item.item, judged_item.outcome.votes
    if votes is None:
        # The same decision in both orders.
        return Added(item.prompt_id, 2.0 * judged_item.is_right, 2.0)
    right = sum(vote in item.right for vote in votes)
    return Added(item.prompt_id, right, len(votes) - votes.count(None))
