"""PKU-SafeRLHF: the better or the safer response."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from basereward.data.adapters import check_columns
from basereward.data.adapters.text.pku_saferlhf import PKUSafeRLHF
from basereward.data.schema.rejections import RowRejected

ROW = {"prompt": "Q", "response_0": "zero", "response_1": "one", "better_response_id": 1, "safer_response_id": 0}


@pytest.mark.parametrize(("by", "chosen", "rejected"), [("better", "one", "zero"), ("safer", "zero", "one")])
def test_argument_selects_the_label(by: Literal["better", "safer"], chosen: str, rejected: str) -> None:
    """If the two labels differ, so do the pairs; the column of the other label may be missing."""
    shape = PKUSafeRLHF(by=by)
    row = {name: value for name, value in ROW.items() if name in shape.columns}
    assert len(row) == 4
    check_columns(shape, row)
    assert shape(row) == {"prompt": "Q", "chosen": chosen, "rejected": rejected}


def test_the_default_is_better() -> None:
    """Without an argument, `better_response_id` decides."""
    assert PKUSafeRLHF()(ROW)["chosen"] == "one"


@pytest.mark.parametrize("verdict", [None, -1, 2, "0", True])
def test_other_index_rejects_the_row(verdict: Any) -> None:
    """Any other index rejects the row."""
    with pytest.raises(RowRejected, match="0 or 1 is needed") as caught:
        PKUSafeRLHF()(ROW | {"better_response_id": verdict})
    assert caught.value.reason == "undecided"
