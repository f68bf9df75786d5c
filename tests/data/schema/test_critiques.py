"""Critiques of responses: one for each response, or none."""

from __future__ import annotations

from typing import Any

import pytest

from basereward.data.adapters.multimodal.mm_rlhf import MMRLHF
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.rows import RowFormat
from basereward.data.sources.digits import Digits, true_digit

PAIR = {"prompt": "Which?", "chosen": "7", "rejected": "3"}


def critiques(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the critiques of the group of a row."""
    return RowFormat().group(row, source="mine", row_id="0", where="row").critiques


def test_critiques_have_the_order_of_the_responses() -> None:
    """In rows with `chosen` and `rejected` and in rows with `responses`; a row without critiques has none."""
    assert critiques(PAIR | {"rejected_critique": "Wrong.", "chosen_critique": "Right."}) == ("Right.", "Wrong.")
    general = {"prompt": "Which?", "responses": ["7", "3", "4"], "ranking": [0, 1, 1]}
    assert critiques(general | {"critiques": ["a", "b", "c"]}) == ("a", "b", "c")
    assert critiques(PAIR) == critiques(general) == ()


@pytest.mark.parametrize(
    "critique_columns",
    [{"chosen_critique": "Right."}, {"chosen_critique": "Right.", "rejected_critique": 3}],
)
def test_missing_critique_rejects_the_row(critique_columns: dict[str, Any]) -> None:
    """A critique of only one response, or one that is no text."""
    with pytest.raises(RowRejected, match="list of 2 texts") as caught:
        critiques(PAIR | critique_columns)
    assert caught.value.reason == "bad_critiques"


def test_reasons_of_mm_rlhf_are_critiques() -> None:
    """Only if both responses have a reason."""
    shape = MMRLHF()
    row = PAIR | {"image": "1.jpg", "chosen_reason": "It is seven.", "rejected_reason": "No three there."}
    assert shape(row)["chosen_critique"] == "It is seven."
    assert shape(row)["rejected_critique"] == "No three there."
    assert "chosen_critique" not in shape(row | {"rejected_reason": None})


def test_critiques_of_digits_are_true() -> None:
    """Each critique names the digit of the image, and calls exactly the preferred responses right."""
    groups = Digits("digits", val_size=20, test_size=0).groups("val")
    for group in groups:
        digit = true_digit(int(group.id.split("/")[1]))
        winners = {preference.winner for preference in group.preferences}
        for index, critique in enumerate(group.critiques):
            assert str(digit) in critique
            assert critique.endswith("right." if index in winners else "wrong.")
