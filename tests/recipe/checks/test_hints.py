"""Values are checked against type hints, from classes and from source text."""

from __future__ import annotations

import ast
import math
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Le, Lt

from basereward.recipe.checks.hints import HintMismatch, coerce
from basereward.recipe.checks.signature import hint_of

VALID = [
    ("1", int, 1),
    ("1", float, 1.0),
    ("1", int | float, 1),
    ("1", float | int, 1),
    ("0.5", float, 0.5),
    ("None", int | None, None),
    ("True", bool, True),
    ("'x'", str, "x"),
    ("'silu'", Literal["none", "silu"], "silu"),
    ("'data'", float | Literal["data"], "data"),
    ("1", float | Literal["data"], 1.0),
    ("[1, 2]", list[float], [1.0, 2.0]),
    ("[1, 'a']", tuple[int, str], [1, "a"]),
    ("[1, 2, 3]", tuple[int, ...], [1, 2, 3]),
    ("{'a': 1}", dict[str, float], {"a": 1.0}),
    ("[1]", list[int] | None, [1]),
    ("15", Annotated[int, Interval(ge=1, le=15)], 15),
    ("1", Annotated[float, Gt(0), Lt(2)], 1.0),
    ("'x'", Annotated[str, "a name"], "x"),
]


@pytest.mark.parametrize(("source", "hint", "expected"), VALID)
def test_valid_value_is_converted_to_its_hint(source: str, hint: Any, expected: Any) -> None:
    """Whole numbers become floats where floats are expected; nothing else changes."""
    value = coerce(ast.literal_eval(source), hint)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        pytest.param(True, int, "expected a whole number; true given", id="truth_is_no_number"),
        pytest.param(True, float, "expected a number; true given", id="truth_is_no_float"),
        pytest.param(1, bool, "expected true or false; 1 given", id="number_is_no_truth"),
        pytest.param(True, Literal[1, 2], "expected one of 1, 2; true given", id="truth_is_no_literal"),
        pytest.param(2.0, int, "expected a whole number; 2.0 given", id="float_is_not_whole"),
        pytest.param("1e-5", float, "expected a number; '1e-5' given", id="text_is_no_number"),
        pytest.param(5, str, "expected text; 5 given", id="number_is_no_text"),
        pytest.param(None, int, "expected a whole number; null given", id="null"),
        pytest.param("slu", Literal["tanh", "silu"], "did you mean 'silu'?", id="near_miss"),
        pytest.param(
            "dta", Literal["data"] | float, "expected 'data' or a number; 'dta' given; did you mean", id="union"
        ),
        pytest.param([1, "x"], list[int], "item 2: expected a whole number", id="item"),
        pytest.param([1, "x"], list[int] | None, "item 2: expected a whole number", id="item_of_optional"),
        pytest.param({"a": "x"}, dict[str, float], "item 'a': expected a number", id="entry"),
        pytest.param(16, Annotated[int, Interval(ge=1, le=15)], "a whole number from 1 to 15; 16 given", id="range"),
        pytest.param(0.5, Annotated[float, Interval(ge=0, lt=0.5)], "from 0 to below 0.5; 0.5 given", id="half_open"),
        pytest.param(0, Annotated[float, Interval(gt=0, le=1)], "a number above 0 and at most 1; 0 given", id="above"),
        pytest.param(2, Annotated[float, Gt(0), Lt(2)], "a number above 0 and below 2; 2 given", id="two_marks"),
        pytest.param(4, Annotated[int, Le(3)], "a whole number of at most 3; 4 given", id="at_most"),
        pytest.param(math.nan, Annotated[float, Ge(0)], "a number of at least 0; nan given", id="nan_is_in_no_range"),
        pytest.param(0, Annotated[int, Ge(1)] | None, "of at least 1 or null; 0 given", id="range_or_null"),
        pytest.param([1], tuple[int, int], "expected a list of 2 values", id="length"),
        pytest.param("vision", list[str], "expected a list of text; 'vision' given", id="text_is_no_list"),
        pytest.param([1], dict[str, int], "expected a mapping", id="list_is_no_mapping"),
    ],
)
def test_invalid_value_is_an_error(value: Any, hint: Any, message: str) -> None:
    """The message has what is expected and given, and the nearest valid value where there is one."""
    with pytest.raises(HintMismatch) as caught:
        coerce(value, hint)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("int | None", int | None),
        ("Optional[Literal['a', 'b']]", Literal["a", "b"] | None),
        ("typing.Union[int, str]", int | str),
        ("Sequence[str]", list[str]),
        ("Mapping[str, float]", dict[str, float]),
        ("Annotated[int, 'unit']", int),
        ("Annotated[int, Interval(ge=1, le=15)]", Annotated[int, Interval(ge=1, le=15)]),
        ("Annotated[float, annotated_types.Ge(-1.5)] | None", Annotated[float, Ge(-1.5)] | None),
        ("Annotated[float, Le(LARGEST)]", float),
        ("'float | None'", float | None),
        ("Path", str),
        ("torch.dtype", Any),
        ("int | torch.dtype", Any),
        ("Literal[CONSTANT]", Any),
        ("Activation", Literal["tanh"]),
        ("Loop", Any),
        ("not a hint at all", None),
    ],
)
def test_hint_is_read_from_source_text(source: str, expected: Any) -> None:
    """Names that are unknown without importing the module are `Any`; the module's own aliases are resolved."""
    aliases = {
        name: ast.parse(text, mode="eval").body for name, text in [("Activation", "Literal['tanh']"), ("Loop", "Loop")]
    }
    if expected is None:
        assert hint_of(ast.Constant(source), aliases=aliases) is Any
    else:
        assert hint_of(ast.parse(source, mode="eval").body, aliases=aliases) == expected


def test_integer_beyond_every_float_is_refused() -> None:
    """Python raises OverflowError for it, and refuses to print it."""
    with pytest.raises(HintMismatch, match="float"):
        coerce(16**50_000, float)
