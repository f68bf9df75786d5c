"""VLFeedback: four completions a prompt, rated by GPT-4V in three aspects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from basereward.data.adapters.ratings import RatedPairs, compare
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected

ASPECTS = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")


class VLFeedback:
    """Completions compared by the mean of their ratings. One with a rating that is no number is left out.

    The file holds no paths of pictures: that of a row is named by its id.

    Args:
        pairs: `all` of unequal means, or only the one of the `largest_gap`, of equals the first.
        margins: whether the difference of the means, 0 to 4, is given as the margin.
        image: the picture's name, with `{id}` for the row's id.
    """

    columns = ("id", "prompt", "completions")

    def __init__(
        self, *, pairs: RatedPairs = "all", margins: bool = True, image: str = "merged_images/{id}.jpg"
    ) -> None:
        self.pairs = pairs
        self.margins = margins
        self.image = image

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            RowRejected: `wrong_type`, `not_rated` (fewer than two completions with three numbers), `equal_ratings`.
        """
        rated = [(one.get("response"), mean_rating(one.get("annotations"))) for one in _listed(row["completions"])]
        numbered = [(response, mean) for response, mean in rated if mean is not None]
        picture = self.image.format(id=row["id"])
        compared = compare(numbered, pairs=self.pairs, margins=self.margins)
        return {"id": row["id"], "prompt": row["prompt"], "image": picture} | compared


def mean_rating(annotations: object) -> float | None:
    """The mean over the three aspects, or None where one of them has no number.

    >>> mean_rating({name: {"Rating": "4", "Rationale": ""} for name in ASPECTS})
    4.0
    """
    if not isinstance(annotations, Mapping):
        return None
    try:
        ratings = [float(annotations[aspect]["Rating"]) for aspect in ASPECTS]
    except (KeyError, TypeError, ValueError):
        return None
    mean = math.fsum(ratings) / len(ratings)
    return mean if math.isfinite(mean) else None


def _listed(completions: object) -> Sequence[Mapping[str, Any]]:
    """A list of completions; a table of them, as the set's own loader writes it, is turned into one."""
    if isinstance(completions, Mapping) and all(isinstance(cells, list) for cells in completions.values()):
        return [dict(zip(completions, cells, strict=True)) for cells in zip(*completions.values(), strict=True)]
    if not isinstance(completions, list) or not all(isinstance(one, Mapping) for one in completions):
        raise RowRejected("wrong_type", f"`completions` is {shown(completions)}; a list of objects is needed")
    return completions
