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


def test_all_takes_every_unequal_pair_and_no_other() -> None:
    """Scores 5, 9, 5 and 1 give five of six pairs, the winner first."""
    assert UltraFeedback(pairs="all")(row(5.0, 9.0, 5.0, 1.0)) == {
        "prompt": "Q",
        "responses": ["a", "b", "c", "d"],
        "preferences": [[1, 0], [0, 3], [1, 2], [1, 3], [2, 3]],
    }


def test_largest_gap_takes_best_and_worst() -> None:
    """One pair; if several have the largest or smallest score, the first of them."""
    hard = UltraFeedback(pairs="largest_gap")
    assert hard(row(5.0, 9.0, 5.0, 1.0)) == {"prompt": "Q", "chosen": "b", "rejected": "d"}
    assert hard(row(2, 8.5, 2, 8.5)) == {"prompt": "Q", "chosen": "b", "rejected": "a"}


@pytest.mark.parametrize("unrated", [None, "N/A", math.nan, True], ids=["null", "text", "nan", "truth"])
def test_a_completion_without_a_number_is_left_out(unrated: Any) -> None:
    """The other completions are compared, under their new indices."""
    assert UltraFeedback()(row(3.0, unrated, 7.0)) == {
        "prompt": "Q",
        "responses": ["a", "c"],
        "preferences": [[1, 0]],
    }


def test_another_score_can_decide() -> None:
    """The mean over aspects instead of the overall score; the error for a wrong key lists the existing keys."""
    both = row(1.0, 2.0)
    for completion, fine in zip(both["completions"], (4.5, 3.0), strict=True):
        completion["fine-grained_score"] = fine
    assert UltraFeedback(score="fine-grained_score")(both)["preferences"] == [[0, 1]]
    with pytest.raises(RowRejected, match="Keys of a completion: response, overall_score") as lost:
        UltraFeedback(score="score")(row(1.0, 2.0))
    assert lost.value.reason == "not_rated"


@pytest.mark.parametrize(
    ("given", "reason"),
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
def test_what_says_nothing_is_lost(given: dict[str, Any], reason: str, pairs: Any) -> None:
    """Under its own reason, for both values of `pairs`."""
    with pytest.raises(RowRejected) as lost:
        UltraFeedback(pairs=pairs)(given)
    assert lost.value.reason == reason
