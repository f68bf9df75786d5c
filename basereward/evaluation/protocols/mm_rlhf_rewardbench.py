"""MM-RLHF-RewardBench (arXiv 2502.10391): all ranked pairs of 46 prompts about pictures and short films."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from basereward.data.adapters.multimodal.mm_rlhf import MMRLHF
from basereward.data.images.image_store import ImageStore
from basereward.data.schema.rejections import RowRejected
from basereward.evaluation.items import Item, JudgedItem
from basereward.evaluation.statistics.measures import (
    Measures,
    Variant,
    accuracy,
    all_right,
    length_controlled,
    per_vote,
)

CATEGORIES = ("mcq", "long", "short", "safety", "video")  # by the first that the picture's path holds


class MMRLHFRewardBench:
    """Rows of `prompt`, `chosen`, `rejected` and the path of an `image` or of a `video`, which is a folder of frames.

    `acc` counts pairs, `acc_plus` prompts whose pairs are all right; both by category, too.

    Args:
        frames: how many frames of a film are taken as images, evenly spaced.
    """

    columns = ("id", "prompt", "chosen", "rejected")
    also: ClassVar[Mapping[str, str]] = {
        "image": "the path of a picture, which holds the category",
        "video": "in place of it: the path of a folder of frames",
    }

    def __init__(self, *, frames: int = 32) -> None:
        self._shape = MMRLHF(video="frames_as_images", frames=frames)

    @property
    def variants(self) -> Mapping[str, Variant]:
        return {
            "published": _measures,
            "per_vote": lambda judged: {"overall": per_vote(judged)},
            "length_controlled": lambda judged: {"overall": length_controlled(judged)},
        }

    def item(self, row: Mapping[str, Any], *, number: int, images: ImageStore) -> Item:
        path = str(row.get("video") or row.get("image") or "")
        self._shape.use_images(images)
        try:
            found = self._shape(row)["images"]
        except RowRejected:  # the film is not here, which only scoring it minds
            found = path
        return Item(
            row=number,
            id=str(row["id"]),
            prompt=row["prompt"],
            responses=(row["chosen"], row["rejected"]),
            right=(0,),
            wrong=(1,),
            prompt_id=str(row["id"]),
            labels={"category": next((name for name in CATEGORIES if name in path), "other")},
            images=tuple(found) if isinstance(found, list) else (found,),
        )


def _measures(judged: Sequence[JudgedItem]) -> Measures:
    measures = {"acc": accuracy(judged), "acc_plus": all_right(judged)}
    for name in CATEGORIES:
        part = [each for each in judged if each.item.labels["category"] == name]
        measures |= {name: accuracy(part), f"{name}_plus": all_right(part)}
    return measures
