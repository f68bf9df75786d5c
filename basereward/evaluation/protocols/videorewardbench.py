"""VideoRewardBench (arXiv 2509.00484): pairs about videos, in five categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from basereward.data.images.image_store import ImageStore
from basereward.evaluation.items import Item, JudgedItem
from basereward.evaluation.protocols import Protocol
from basereward.evaluation.protocols._rows import one_of, prompt_key, text
from basereward.evaluation.statistics.measures import Measures, Variant, accuracy, length_controlled, mean_accuracy

CATEGORIES = ("long_perception", "short_perception", "knowledge", "reasoning", "safety")


class VideoRewardBench(Protocol):
    """Rows of `prompt`, `chosen`, `rejected`, the path of a `video` and a `category`.

    In the variant `micro`, `overall` weights all pairs equally; the published one does, as its values follow from the
    categories. `macro` is the mean of the five categories. Votes without a majority count as wrong.

    Args:
        categories: further names of categories in the rows -> one of `CATEGORIES`.

    >>> row = {"prompt": "Who wins?", "chosen": "Ann", "rejected": "Bob", "video": "1.mp4", "category": "reasoning"}
    >>> VideoRewardBench().item(row, number=0, images=ImageStore()).videos
    ('1.mp4',)
    """

    columns = ("prompt", "chosen", "rejected", "video", "category")
    optional_columns: ClassVar[Mapping[str, str]] = {"id": "the number of the row by default"}

    def __init__(self, *, categories: Mapping[str, str] | None = None) -> None:
        self._categories = {name: name for name in CATEGORIES} | dict(categories or {})

    @property
    def variants(self) -> Mapping[str, Variant]:
        """`micro` (published) and `length_controlled`."""
        return {"micro": _micro, "length_controlled": lambda judged: {"overall": length_controlled(judged)}}

    def item(self, row: Mapping[str, Any], *, number: int, images: ImageStore) -> Item:
        """Convert a row to an item.

        Raises:
            RowRejected: a cell is not text, or the category is unknown.
        """
        advice = f" Map it: protocol.categories={{NAME: {CATEGORIES[0]}}}"
        prompt, video = text(row, "prompt"), text(row, "video")
        return Item(
            row=number,
            id=str(number if row.get("id") is None else row["id"]),
            prompt=prompt,
            responses=(text(row, "chosen"), text(row, "rejected")),
            right=(0,),
            wrong=(1,),
            prompt_id=prompt_key((prompt, video)),
            labels={"category": self._categories[one_of(row, "category", self._categories, advice=advice)]},
            videos=(video,),
        )


def _micro(judged: Sequence[JudgedItem]) -> Measures:
    by_category: dict[str, list[JudgedItem]] = {name: [] for name in CATEGORIES}
    for judged_item in judged:
        by_category[judged_item.item.labels["category"]].append(judged_item)
    categories = {name: accuracy(members) for name, members in by_category.items()}
    return {"overall": accuracy(judged), "macro": mean_accuracy(by_category), **categories}
