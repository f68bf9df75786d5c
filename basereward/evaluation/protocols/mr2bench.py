"""MR2Bench-Image and MR2Bench-Video (arXiv 2604.10966): the best of four ranked responses to a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected
from basereward.evaluation.items import Item, JudgedItem
from basereward.evaluation.protocols import Protocol
from basereward.evaluation.protocols._rows import prompt_key, text, texts
from basereward.evaluation.statistics.measures import Measures, Variant, accuracy

RESPONSES = 4


class MR2Bench(Protocol):
    """Rows of `prompt`, four `responses` and their `rankings`: 1 is the best, and equal ranks are ties.

    The variant `best_of_four` counts the rows whose response with the highest score has the best rank. A highest score
    that is shared with a response of another rank counts as wrong. Verdicts name the best response.

    Args:
        media: the column that every row must have, `image` or `video`; None: rows may have neither. Without it, a
            column of another name would be left out, and questions asked without what they are about.

    >>> row = {"prompt": "What is it?", "responses": ["a cat", "a dog", "a cow", "a hen"], "rankings": [3, 1, 2, 4]}
    >>> MR2Bench().item(row, number=0, images=ImageStore()).right
    (1,)
    """

    columns: tuple[str, ...] = ("prompt", "responses", "rankings")
    optional_columns: ClassVar[Mapping[str, str]] = {
        "id": "the number of the row by default",
        "image": "the path of the image",
        "video": "the path of the video: a file, or a folder of frames",
    }

    def __init__(self, *, media: Literal["image", "video"] | None = None) -> None:
        if media is not None:
            self.columns = (*type(self).columns, media)

    @property
    def variants(self) -> Mapping[str, Variant]:
        """`best_of_four` (published)."""
        return {"best_of_four": _best_of_four}

    def item(self, row: Mapping[str, Any], *, number: int, images: ImageStore) -> Item:
        """Convert a row to an item.

        Raises:
            RowRejected: there are not four responses with a rank each, or all ranks are equal.
        """
        responses = texts(row, "responses", number=RESPONSES)
        ranks = _ranks(row, number=len(responses))
        best = min(ranks)
        prompt = text(row, "prompt")
        # Rows that share a picture are recognised by its path; a picture that is stored in the row has none.
        picture = row["image"] if isinstance(row.get("image"), str) else number
        return Item(
            row=number,
            id=str(number if row.get("id") is None else row["id"]),
            prompt=prompt,
            responses=responses,
            right=tuple(place for place, rank in enumerate(ranks) if rank == best),
            wrong=tuple(place for place, rank in enumerate(ranks) if rank != best),
            prompt_id=prompt_key((prompt, row.get("video") or picture)),
            images=() if row.get("image") is None else (row["image"],),
            any_right=True,
            videos=() if row.get("video") is None else (text(row, "video"),),
        )


def _ranks(row: Mapping[str, Any], *, number: int) -> list[int]:
    """The rank of every response."""
    ranks = row["rankings"]
    if not isinstance(ranks, list) or not all(isinstance(rank, int) and not isinstance(rank, bool) for rank in ranks):
        raise RowRejected("wrong_type", f"`rankings` is {shown(ranks)}; a list of whole numbers is needed, 1 the best")
    if len(ranks) != number:
        raise RowRejected("wrong_count", f"`rankings` has {len(ranks)} ranks for {number} answers")
    if len(set(ranks)) == 1:
        raise RowRejected("no_preference", f"all answers have the rank {ranks[0]}; there is none to choose")
    return ranks


def _best_of_four(judged: Sequence[JudgedItem]) -> Measures:
    return {"overall": accuracy(judged)}
