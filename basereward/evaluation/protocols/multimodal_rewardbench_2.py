"""Multimodal RewardBench 2 (arXiv 2512.16899): pairs with pictures in questions or answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError
from basereward.evaluation.items import Decision, Item, JudgedItem
from basereward.evaluation.protocols._rows import one_of, text
from basereward.evaluation.statistics.measures import Measure, Measures, Variant
from basereward.evaluation.statistics.shares import Added, count, share

PLACE = re.compile(r"<image_\d+>")
ANSWERS = ("A", "B")


class MultimodalRewardBench2:
    """Rows of `prompt_text` and `prompt_images`, two answers of text and images each, and the `chosen` one; or those of
    the authors' files, whose `prompt_content` and answers (`response_a`, `response_b`) are lists of [kind, content].

    `both_orders` pools the verdicts of all pairs and both orders; those that are missing leave the denominator. Scores
    say the same in both orders, so that every pair counts twice. `text_only` has the pairs whose answers hold no image:
    a model that reads no images in answers is told only by these.

    Args:
        judges_only: the answers are images, so that a model which scores text has nothing to score.
    """

    columns = ("chosen",)
    also: ClassVar[Mapping[str, str]] = {
        "pair_id": "or `id`",
        "prompt_text": "with `<image_N>` for pictures, and `prompt_images`",
        "prompt_content": "of the authors' files, in place of these two: a list of [kind, content]",
        "response_a_text": "with `response_a_images`, and the same of b",
        "response_a": "of the authors' files, in place of these two: with `response_content`; and `response_b`",
        "prompt_source": "the data set that the prompt is from",
    }

    def __init__(self, *, judges_only: bool = False) -> None:
        self.judges_only = judges_only

    @property
    def variants(self) -> Mapping[str, Variant]:
        return {"both_orders": _both_orders}

    def item(self, row: Mapping[str, Any], *, number: int, images: ImageStore) -> Item:
        """
        Raises:
            RowRejected: there is no prompt, an answer is empty, or the chosen one is neither A nor B.
        """
        row = _flat(row)
        right = ANSWERS.index(one_of({**row, "chosen": str(row["chosen"]).upper()}, "chosen", ANSWERS))
        pictures = list(row.get("prompt_images") or [])
        drawn = any(row.get(f"response_{name}_images") for name in "ab")
        return Item(
            row=number,
            id=str(row["pair_id"]),
            prompt=_prompt(text(row, "prompt_text"), len(pictures)),
            responses=(_answer(row, "a"), _answer(row, "b")),
            right=(right,),
            wrong=(1 - right,),
            prompt_id=str(row["pair_id"]),
            labels={"source": str(row.get("prompt_source") or ""), "answers": "with_images" if drawn else "text"},
            images=tuple(pictures),
        )


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row in the columns of the hub.

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
        hint = (
            " This is a row of the authors' *_response_only.json, which have no prompts: benchmark/run_release.sh of "
            "their repository adds them and writes reasoning.json; give that file."
            if "response_a" in row
            else " If it is there under another name, map it: columns.prompt_text=..."
        )
        raise RowRejected(
            "missing_column", f"missing or empty: prompt_text. Columns found: {', '.join(map(str, row))}.{hint}"
        )
    return flat


def _content(value: Any, column: str) -> tuple[str, list[str]]:
    """The text of a list of [kind, content], pictures in their places, and the pictures."""
    pieces: list[Any] = value if isinstance(value, list) else [None]
    if not all(
        isinstance(each, list | tuple) and len(each) == 2 and each[0] in ("text", "image") and isinstance(each[1], str)
        for each in pieces
    ):
        raise RowRejected(
            "wrong_type", f'`{column}` is {shown(value)}; a list of ["text" or "image", content] is needed'
        )
    images: list[str] = []
    text = ""
    for kind, content in pieces:
        text += content if kind == "text" else f"<image_{len(images)}>"
        images += [content] if kind == "image" else []
    return text, images


def _prompt(words: str, number: int) -> str:
    """With our places for images, which the numbered ones stand for in their order; without any, images come last."""
    placed, places = PLACE.subn("<image>", words)
    return placed if places else "\n".join([placed, *["<image>"] * number])


def _answer(row: Mapping[str, Any], name: str) -> str:
    words = str(row.get(f"response_{name}_text") or "")
    if not words and not row.get(f"response_{name}_images"):
        raise RowRejected("empty_response", f"`response_{name}_text` and `response_{name}_images` are both empty")
    return words


def _both_orders(judged: Sequence[JudgedItem]) -> Measures:
    for each in judged:
        if len(each.outcome.votes or ()) % 2:
            raise DataError(
                f"row {each.item.row} ('{each.item.id}') has {len(each.outcome.votes or ())} verdicts; Multimodal "
                "RewardBench 2 counts both orders, so that an even number is needed (--order both)"
            )
    text_only = [each for each in judged if each.item.labels["answers"] == "text"]
    return {"overall": _pooled(judged), "text_only": _pooled(text_only)}


def _pooled(judged: Sequence[JudgedItem]) -> Measure:
    missing = sum(vote is None for each in judged for vote in each.outcome.votes or ())
    return share([_decisions(each) for each in judged], ties=count(judged, Decision.TIE), undecided=missing)


def _decisions(each: JudgedItem) -> Added:
    votes = each.outcome.votes
    if votes is None:
        return Added(each.item.prompt_id, 2.0 * each.is_right, 2.0)
    return Added(
        each.item.prompt_id, sum(vote in each.item.right for vote in votes), sum(vote is not None for vote in votes)
    )
