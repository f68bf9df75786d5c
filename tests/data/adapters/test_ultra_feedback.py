"""UltraFeedback: which pairs scores make."""

from __future__ import annotations

import math
from typing import Any

import pytest

from basereward.data.adapters.text.ultra_feedback import UltraFeedback
from basereward.data.schema.rejections import RowRejected


def row(*scores: Any, key: str = "overall_score") -> dict[str, Any]:
    """A prompt whose completions are called a, b, c, ... and have these scores."""
    completions = [{"response": "abcdef"[i], key: score} for i, score in enumerate(scores)]
    return {"instruction": "Q", "completions": completions}


def test_all_takes_every_unequal_pair_and_no_other() -> None:
    """Of 5, 9, 5 and 1: five of six pairs, the winner first."""
    assert UltraFeedback(pairs="all")(row(5.0, 9.0, 5.0, 1.0)) == {
        "prompt": "Q",
        "responses": ["a", "b", "c", "d"],
        "preferences": [[1, 0], [0, 3], [1, 2], [1, 3], [2, 3]],
    }


def test_largest_gap_takes_best_and_worst() -> None:
    """One pair; where several have the largest score or the smallest, the first of them."""
    hard = UltraFeedback(pairs="largest_gap")
    assert hard(row(5.0, 9.0, 5.0, 1.0)) == {"prompt": "Q", "chosen": "b", "rejected": "d"}
    assert hard(row(2, 8.5, 2, 8.5)) == {"prompt": "Q", "chosen": "b", "rejected": "a"}


@pytest.mark.parametrize("unrated", [None, "N/A", math.nan, True], ids=["null", "text", "nan", "truth"])
def test_a_completion_without_a_number_is_left_out(unrated: Any) -> None:
    """The others still make their pairs, under their new places."""
    assert UltraFeedback()(row(3.0, unrated, 7.0)) == {
        "prompt": "Q",
        "responses": ["a", "c"],
        "preferences": [[1, 0]],
    }


def test_another_score_can_decide() -> None:
    """The mean over aspects in place of the overall score; the wrong key is told with those that there are."""
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
    """Under its own reason, whichever pairs are wanted."""
    with pytest.raises(RowRejected) as lost:
        UltraFeedback(pairs=pairs)(given)
    assert lost.value.reason == reason
