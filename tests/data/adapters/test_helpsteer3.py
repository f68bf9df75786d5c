"""HelpSteer3: the sign of `overall_preference` selects the response, its absolute value is the margin."""

from __future__ import annotations

from typing import Any

import pytest

from basereward.data.adapters.text.helpsteer3 import HelpSteer3
from basereward.data.schema.rejections import RowRejected

CONTEXT = [{"role": "user", "content": "Q"}]


def row(preference: Any) -> dict[str, Any]:
    """Return a question with two responses."""
    return {"context": CONTEXT, "response1": "one", "response2": "two", "overall_preference": preference}


@pytest.mark.parametrize(
    ("preference", "chosen", "rejected"),
    [(-3, "one", "two"), (-1, "one", "two"), (1, "two", "one"), (3, "two", "one")],
)
def test_sign_selects_the_response(preference: int, chosen: str, rejected: str) -> None:
    """Below zero, response 1 is better; above zero, response 2. The absolute value is the margin with `margin=True`."""
    pair = {"prompt": CONTEXT, "chosen": chosen, "rejected": rejected}
    assert HelpSteer3()(row(preference)) == pair
    assert HelpSteer3(margin=True)(row(preference)) == pair | {"margin": abs(preference)}


@pytest.mark.parametrize(
    ("preference", "reason"),
    [(0, "undecided"), (None, "not_rated"), (4, "not_rated"), (-100, "not_rated"), ("1", "not_rated")],
)
def test_undecided_preference_rejects_the_row(preference: Any, reason: str) -> None:
    """Zero is undecided; a value out of the scale is not rated."""
    with pytest.raises(RowRejected) as caught:
        HelpSteer3()(row(preference))
    assert caught.value.reason == reason
