"""Test the suggestion that an error message gives for an unknown name."""

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
def test_nearest_ignores_case_and_small_differences(given: str, allowed: list[str], expected: str | None) -> None:
    """Without a similar name the result is None."""
    assert nearest(given, allowed) == expected


def test_nearest_prefers_a_difference_in_case() -> None:
    """A name that differs only in case is nearer than one that differs in a letter."""
    assert nearest("EPS", ["eps", "epss", "EPT"]) == "eps"
    assert unknown("head", "MLP", ["linear", "mlp"]) == "unknown head 'MLP'; did you mean 'mlp'? Allowed: linear, mlp."


def test_explain_includes_the_notes() -> None:
    """Notes that were added to the error are included, and an error without a message has its type name."""
    error = DataError("the row is bad")
    assert explain(error) == "the row is bad"
    error.add_note("The run is r1.")
    assert explain(error) == "the row is bad\nThe run is r1."
    assert explain(DataError()) == "DataError"
