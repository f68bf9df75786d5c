"""The hint that a message gives for a name that does not exist."""

from __future__ import annotations

import pytest

from basereward.errors import DataError, explain, nearest, unknown

KEYS = ["betas", "eps", "lr", "weight_decay"]


@pytest.mark.parametrize(
    ("given", "allowed", "expected"),
    [
        pytest.param("MLP", ["linear", "mlp"], "mlp", id="capitals"),
        pytest.param("mlp", ["Linear", "MLP"], "MLP", id="small letters"),
        pytest.param("MPL", ["linear", "mlp"], "mlp", id="capitals and a swap"),
        pytest.param("rl", KEYS, "lr", id="two letters swapped"),
        pytest.param("LR", KEYS, "lr", id="two capitals"),
        pytest.param("lrr", KEYS, "lr", id="one too many"),
        pytest.param("ep", KEYS, "eps", id="one too few"),
        pytest.param("weigthdecay", KEYS, "weight_decay", id="long"),
        pytest.param("x", KEYS, None, id="one letter that is in none"),
        pytest.param("xy", KEYS, None, id="nothing like it"),
        pytest.param("", KEYS, None, id="empty"),
        pytest.param("lr", [], None, id="nothing allowed"),
    ],
)
def test_the_nearest_name_is_found_whatever_its_case_and_length(
    given: str, allowed: list[str], expected: str | None
) -> None:
    """And none is made up when nothing is close."""
    assert nearest(given, allowed) == expected


def test_a_right_name_in_capitals_is_nearer_than_a_similar_one() -> None:
    """Case counts for nothing, a letter for something."""
    assert nearest("EPS", ["eps", "epss", "EPT"]) == "eps"
    assert unknown("head", "MLP", ["linear", "mlp"]) == "unknown head 'MLP'; did you mean 'mlp'? Allowed: linear, mlp."


def test_notes_are_told_with_the_message() -> None:
    """What was added on the way up is not lost; an error without words has at least its name."""
    error = DataError("the row is bad")
    assert explain(error) == "the row is bad"
    error.add_note("The run is r1.")
    assert explain(error) == "the row is bad\nThe run is r1."
    assert explain(DataError()) == "DataError"
