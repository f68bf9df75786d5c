"""Critiques in rows: one for every response, or none."""

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


def test_they_stand_in_the_order_of_the_responses() -> None:
    """In the pair form and in the general form; a row without critiques has none."""
    assert critiques(PAIR | {"rejected_critique": "Wrong.", "chosen_critique": "Right."}) == ("Right.", "Wrong.")
    general = {"prompt": "Which?", "responses": ["7", "3", "4"], "ranking": [0, 1, 1]}
    assert critiques(general | {"critiques": ["a", "b", "c"]}) == ("a", "b", "c")
    assert critiques(PAIR) == critiques(general) == ()


@pytest.mark.parametrize(
    "given",
    [{"chosen_critique": "Right."}, {"chosen_critique": "Right.", "rejected_critique": 3}],
)
def test_half_of_them_loses_the_row(given: dict[str, Any]) -> None:
    """A missing critique of one response is not guessed."""
    with pytest.raises(RowRejected, match="list of 2 texts") as told:
        critiques(PAIR | given)
    assert told.value.reason == "bad_critiques"


def test_reasons_of_mm_rlhf_are_critiques() -> None:
    """If both answers have a reason."""
    shape = MMRLHF()
    row = PAIR | {"image": "1.jpg", "chosen_reason": "It is seven.", "rejected_reason": "No three there."}
    assert shape(row)["chosen_critique"] == "It is seven."
    assert shape(row)["rejected_critique"] == "No three there."
    assert "chosen_critique" not in shape(row | {"rejected_reason": None})


def test_those_of_digits_are_true() -> None:
    """Each critique names the digit of the image, and calls exactly the preferred responses right."""
    groups = Digits("digits", val_size=20, test_size=0).groups("val")
    for each in groups:
        digit = true_digit(int(each.id.split("/")[1]))
        winners = {preference.winner for preference in each.preferences}
        for index, critique in enumerate(each.critiques):
            assert str(digit) in critique
            assert critique.endswith("right." if index in winners else "wrong.")
