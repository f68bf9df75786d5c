"""Stanford Human Preferences: which comment is preferred, and the smallest score ratio."""

from __future__ import annotations

from typing import Any

import pytest

from basereward.data.adapters.text.shp import SHP
from basereward.data.schema.rejections import RowRejected


def row(label: Any, ratio: Any = 2.0) -> dict[str, Any]:
    """Return a post with two comments."""
    return {"history": "Q", "human_ref_A": "a", "human_ref_B": "b", "labels": label, "score_ratio": ratio}


def test_label_1_prefers_a() -> None:
    """1 prefers A, 0 prefers B."""
    assert SHP()(row(1)) == {"prompt": "Q", "chosen": "a", "rejected": "b"}
    assert SHP()(row(0)) == {"prompt": "Q", "chosen": "b", "rejected": "a"}


def test_min_score_ratio_rejects_lower_ratios() -> None:
    """A ratio equal to the bound passes; without a bound the ratio is not read."""
    adapter = SHP(min_score_ratio=2.0)
    assert adapter(row(1, 2.0))["chosen"] == "a"
    assert SHP()(row(1, None))["chosen"] == "a"
    for ratio, reason in ((1.99, "low_score_ratio"), (float("nan"), "low_score_ratio"), (None, "not_rated")):
        with pytest.raises(RowRejected) as caught:
            adapter(row(1, ratio))
        assert caught.value.reason == reason


@pytest.mark.parametrize("label", [None, 2, -1, "1", 1.0, True])
def test_other_label_rejects_the_row(label: Any) -> None:
    """Any other label rejects the row."""
    with pytest.raises(RowRejected, match="or 0 ") as caught:
        SHP()(row(label))
    assert caught.value.reason == "not_rated"
