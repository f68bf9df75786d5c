"""VLFeedback (arXiv 2410.09421): four completions per prompt, rated by GPT-4V in three aspects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from basereward.data.adapters.ratings import RatedPairs, compare
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected

ASPECTS = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")


class VLFeedback:
    """Compares completions by the mean of their ratings. Completions without three numeric ratings are dropped.

    The file contains no image paths; the id of a row gives the name of its image.

    Args:
        pairs: `all` uses every pair with unequal means, `largest_gap` only the pair with the largest difference.
        margins: whether to use the difference of the means, 0 to 4, as the margin.
        image: the name of the image, with `{id}` for the id of the row.

    >>> def rated(response, number):
    ...     return {"response": response, "annotations": {aspect: {"Rating": number} for aspect in ASPECTS}}
    >>> cells = VLFeedback()({"id": "7", "prompt": "Q", "completions": [rated("a", "3"), rated("b", "5")]})
    >>> cells["image"], cells["preferences"], cells["margins"]
    ('merged_images/7.jpg', [[1, 0]], [2.0])
    """

    columns = ("id", "prompt", "completions")

    def __init__(
        self, *, pairs: RatedPairs = "all", margins: bool = True, image: str = "merged_images/{id}.jpg"
    ) -> None:
        self.pairs = pairs
        self.margins = margins
        self.image = image

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a row to our general form.

        Raises:
            RowRejected: `wrong_type`, `not_rated` (fewer than two completions with three numbers), `equal_ratings`.
        """
        # The ratings are texts that GPT-4V wrote, which need not be numbers.
        rated = []
        for completion in _completion_list(row["completions"]):
            mean = mean_rating(completion.get("annotations"))
            if mean is not None:
                rated.append((completion.get("response"), mean))
        image = self.image.format(id=row["id"])
        preferences = compare(rated, pairs=self.pairs, margins=self.margins)
        return {"id": row["id"], "prompt": row["prompt"], "image": image} | preferences


def mean_rating(annotations: object) -> float | None:
    """Average the ratings of the three aspects; None if one of them has no number.

    >>> mean_rating({name: {"Rating": "4", "Rationale": ""} for name in ASPECTS})
    4.0
    """
    if not isinstance(annotations, Mapping):
        return None
    try:
        ratings = [float(annotations[aspect]["Rating"]) for aspect in ASPECTS]
    except (KeyError, TypeError, ValueError):
        return None
    # fsum is exact, so that equal ratings in another order have equal means, not a preference by a rounding error.
    mean = math.fsum(ratings) / len(ratings)
    return mean if math.isfinite(mean) else None


def _completion_list(completions: object) -> Sequence[Mapping[str, Any]]:
    """Return completions as a list of objects; the data set's own loader writes an object of lists instead."""
    if isinstance(completions, Mapping) and all(isinstance(cells, list) for cells in completions.values()):
        return [dict(zip(completions, cells, strict=True)) for cells in zip(*completions.values(), strict=True)]
    if not isinstance(completions, list) or not all(isinstance(item, Mapping) for item in completions):
        raise RowRejected("wrong_type", f"`completions` is {shown(completions)}; a list of objects is needed")
    return completions
