"""UltraFeedback: the pairs that follow from scores."""

from __future__ import annotations

import math
from typing import Any

import pytest

from basereward.data.adapters.text.ultra_feedback import UltraFeedback
from basereward.data.schema.rejections import RowRejected


def row(*scores: Any, key: str = "overall_score") -> dict[str, Any]:
    """Return a prompt with completions a, b, c, ... that have these scores."""
    completions = [{"response": "abcdef"[i], key: score} for i, score in enumerate(scores)]
    return {"instruction": "Q", "completions": completions}


def test_all_gives_every_unequal_pair() -> None:
    """Scores 5, 9, 5 and 1 give five of six pairs, the winner first."""
    assert UltraFeedback(pairs="all")(row(5.0, 9.0, 5.0, 1.0)) == {
        "prompt": "Q",
        "responses": ["a", "b", "c", "d"],
        "preferences": [[1, 0], [0, 3], [1, 2], [1, 3], [2, 3]],
    }


def test_largest_gap_gives_best_and_worst() -> None:
    """One pair; if several have the largest or smallest score, the first of them."""
    adapter = UltraFeedback(pairs="largest_gap")
    assert adapter(row(5.0, 9.0, 5.0, 1.0)) == {"prompt": "Q", "chosen": "b", "rejected": "d"}
    assert adapter(row(2, 8.5, 2, 8.5)) == {"prompt": "Q", "chosen": "b", "rejected": "a"}


@pytest.mark.parametrize("unrated", [None, "N/A", math.nan, True], ids=["null", "text", "nan", "truth"])
def test_a_completion_without_a_number_is_left_out(unrated: Any) -> None:
    """The other completions are compared, under their new indices."""
    assert UltraFeedback()(row(3.0, unrated, 7.0)) == {
        "prompt": "Q",
        "responses": ["a", "c"],
        "preferences": [[1, 0]],
    }


def test_score_selects_the_key() -> None:
    """The mean over aspects instead of the overall score; the error for a wrong key lists the existing keys."""
    row_with_both_scores = row(1.0, 2.0)
    for completion, fine_grained_score in zip(row_with_both_scores["completions"], (4.5, 3.0), strict=True):
        completion["fine-grained_score"] = fine_grained_score
    assert UltraFeedback(score="fine-grained_score")(row_with_both_scores)["preferences"] == [[0, 1]]
    with pytest.raises(RowRejected, match="Keys of a completion: response, overall_score") as caught:
        UltraFeedback(score="score")(row(1.0, 2.0))
    assert caught.value.reason == "not_rated"


@pytest.mark.parametrize(
    ("bad_row", "reason"),
    [
        pytest.param(row(4.0, 4.0, 4.0), "equal_ratings", id="all equal"),
        pytest.param(row(4.0), "not_rated", id="one completion"),
        pytest.param(row(4.0, None), "not_rated", id="one score"),
        pytest.param(row(), "not_rated", id="none"),
        pytest.param({"instruction": "Q", "completions": None}, "wrong_type", id="null"),
        pytest.param({"instruction": "Q", "completions": ["a", "b"]}, "wrong_type", id="texts"),
    ],
)
@pytest.mark.parametrize("pairs", ["all", "largest_gap"])
def test_row_without_a_comparison_is_rejected(bad_row: dict[str, Any], reason: str, pairs: Any) -> None:
    """Each form has its own reason, for both values of `pairs`."""
    with pytest.raises(RowRejected) as caught:
        UltraFeedback(pairs=pairs)(bad_row)
    assert caught.value.reason == reason
