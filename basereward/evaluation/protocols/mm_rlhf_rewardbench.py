"""MM-RLHF-RewardBench (arXiv 2502.10391): all ranked pairs of 46 prompts about images and short videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from basereward.data.adapters.multimodal.mm_rlhf import MMRLHF
from basereward.data.images.image_store import ImageStore
from basereward.data.schema.rejections import RowRejected
from basereward.evaluation.items import Item, JudgedItem
from basereward.evaluation.protocols import Protocol
from basereward.evaluation.statistics.measures import (
    Measures,
    Variant,
    accuracy,
    all_right,
    length_controlled,
    per_vote,
)

# The category of a row is the first of these that occurs in the path of its image.
CATEGORIES = ("mcq", "long", "short", "safety", "video")


class MMRLHFRewardBench(Protocol):
    """Rows of `prompt`, `chosen`, `rejected` and the path of an `image` or of a `video`, which is a folder of frames.

    `acc` is the share of right pairs, `acc_plus` the share of prompts whose pairs are all right. Both are
    also given by category.

    Args:
        frames: the number of frames of a video that are used as images, evenly spaced.

    >>> list(MMRLHFRewardBench().variants)
    ['published', 'per_vote', 'length_controlled']
    """

    columns = ("id", "prompt", "chosen", "rejected")
    optional_columns: ClassVar[Mapping[str, str]] = {
        "image": "the path of an image, which contains the category",
        "video": "in place of `image`: the path of a folder of frames",
    }

    def __init__(self, *, frames: int = 32) -> None:
        self._shape = MMRLHF(video="frames_as_images", frames=frames)

    @property
    def variants(self) -> Mapping[str, Variant]:
        """`published`, `per_vote` and `length_controlled`."""
        return {
            "published": _measures,
            "per_vote": lambda judged: {"overall": per_vote(judged)},
            "length_controlled": lambda judged: {"overall": length_controlled(judged)},
        }

    def item(self, row: Mapping[str, Any], *, number: int, images: ImageStore) -> Item:
        """Convert a row to an item."""
        path = str(row.get("video") or row.get("image") or "")
        try:
            pictures = self._shape.with_images(images)(row)["images"]
        except RowRejected:
            # The video is not here. Only scoring needs it; outcomes can be counted without.
            pictures = path
        return Item(
            row=number,
            id=str(row["id"]),
            prompt=row["prompt"],
            responses=(row["chosen"], row["rejected"]),
            right=(0,),
            wrong=(1,),
            prompt_id=str(row["id"]),
            labels={"category": next((name for name in CATEGORIES if name in path), "other")},
            images=tuple(pictures) if isinstance(pictures, list) else (pictures,),
        )


def _measures(judged: Sequence[JudgedItem]) -> Measures:
    measures = {"acc": accuracy(judged), "acc_plus": all_right(judged)}
    for name in CATEGORIES:
        members = [judged_item for judged_item in judged if judged_item.item.labels["category"] == name]
        measures |= {name: accuracy(members), f"{name}_plus": all_right(members)}
    return measures
