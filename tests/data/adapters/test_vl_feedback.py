"""VLFeedback's ratings: which completions are compared, and with which margin."""

from __future__ import annotations

from typing import Any

import pytest

from basereward.data.adapters.multimodal.vl_feedback import VLFeedback, mean_rating
from basereward.data.schema.rejections import RowRejected
from tests.fixtures.published.vl_feedback import row

FOUR = row("a", "Q?", cup="4 5 3", jar="3 5 1", pot="1 5 3", mug="5 5 5")  # means of 4, 3, 3, 5


def test_default_gives_every_pair_of_unequal_means() -> None:
    """Five of six pairs, with the differences as margins if requested."""
    cells = VLFeedback()(FOUR)
    assert cells["preferences"] == [[0, 1], [0, 2], [3, 0], [3, 1], [3, 2]]
    assert cells["margins"] == [1.0, 1.0, 1.0, 2.0, 2.0]
    assert cells["image"] == "merged_images/a.jpg"
    assert "margins" not in VLFeedback(margins=False)(FOUR)


def test_largest_gap_gives_one_pair() -> None:
    """Best against worst, the first of equals; the other completions are dropped."""
    cells = VLFeedback(pairs="largest_gap")(FOUR)
    assert (cells["responses"], cells["preferences"], cells["margins"]) == (["jar", "mug"], [[1, 0]], [2.0])


def test_columns_of_completions_are_read_as_a_list() -> None:
    """An object of lists, as the data set's own loader writes it."""
    completions: list[dict[str, Any]] = FOUR["completions"]
    table = {key: [completion[key] for completion in completions] for key in completions[0]}
    assert VLFeedback()({**FOUR, "completions": table}) == VLFeedback()(FOUR)


@pytest.mark.parametrize("rating", ["N/A", "", None, "nan", "4 of 5"])
def test_rating_that_is_no_number_drops_the_completion(rating: str | None) -> None:
    """There is no mean over the other two aspects."""
    annotations = {"Helpfulness": {"Rating": rating}, "Ethical Considerations": {"Rating": "5"}}
    assert mean_rating(annotations | {"Visual Faithfulness": {"Rating": "5"}}) is None


@pytest.mark.parametrize(
    ("answers", "reason"),
    [({"a": "5 5 5", "b": "N/A 1 1"}, "not_rated"), ({"a": "5 5 2", "b": "4 4 4", "c": "3 4 5"}, "equal_ratings")],
)
def test_row_without_a_comparison_is_rejected(answers: dict[str, str], reason: str) -> None:
    """Fewer than two rated completions, or equal means."""
    with pytest.raises(RowRejected) as caught:
        VLFeedback()(row("a", "Q?", **answers))
    assert caught.value.reason == reason
