"""Checks a value from YAML against a type hint, with messages in the words of YAML and not of Python.

A hint is a Python type annotation: that of a key of the schema (`basereward.recipe.schema`), or that of an argument of
a `_target_`. Supported are plain types, `Literal`, unions, lists, tuples, mappings, and `Annotated` with the ranges of
the package annotated_types, as in `Annotated[float, Interval(ge=0, lt=1)]`. Another hint, such as a class, has no
counterpart in YAML and accepts every value.

The schema itself has no ranges, because OmegaConf does not read `Annotated`; they are in
`basereward.recipe.checks.ranges`.
"""

from __future__ import annotations

import contextlib
import operator
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types

from basereward.errors import nearest

TYPE_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    None: "null",
    type(None): "null",
    list: "a list",
    tuple: "a list",
    dict: "a mapping",
}
LISTS = (list, tuple, set, frozenset)
RANGES = (
    annotated_types.Interval,
    annotated_types.Ge,
    annotated_types.Gt,
    annotated_types.Le,
    annotated_types.Lt,
)
LIMITS = ("ge", "gt", "le", "lt")
"""Attributes of the ranges; each is also the name of its comparison in the module `operator`."""
VALUE_WIDTH = 80
"""Most characters of a value in a message."""


class HintMismatch(ValueError):
    """A value does not have the type or range of its hint.

    The message says what was expected, what was given, and the nearest allowed value.

    >>> coerce(7, bool)
    Traceback (most recent call last):
    basereward.recipe.checks.hints.HintMismatch: expected true or false; 7 given
    """


def coerce(value: Any, hint: Any) -> Any:
    """Checks a value, and converts a whole number to float where the hint is float. Nothing else is converted.

    Args:
        value: a value from YAML: a number, a text, a boolean, None, a list or a mapping.
        hint: a type annotation.

    Raises:
        HintMismatch: the value has another type, is not among the allowed ones, or is out of its range.

    >>> coerce(1, float), coerce(["vision"], list[str]), coerce(None, int | None)
    (1.0, ['vision'], None)
    >>> coerce("slu", Literal["tanh", "silu"])
    Traceback (most recent call last):
    basereward.recipe.checks.hints.HintMismatch: expected one of 'tanh', 'silu'; 'slu' given; did you mean 'silu'?
    """
    origin = get_origin(hint) or hint
    if origin in NESTED:
        return NESTED[origin](value, hint)
    # Another hint, such as a class, has no counterpart in YAML and accepts every value.
    fits = FITS.get(origin)
    if fits is not None and not fits(value, hint):
        raise mismatch(value, hint)
    if origin is not float:
        return value
    try:
        return float(value)
    except OverflowError:
        # Without the value: Python refuses to print an integer of thousands of digits.
        raise HintMismatch("the number is larger than any float; the largest is about 1.8e308") from None


def _is_literal(value: Any, hint: Any) -> bool:
    # True equals 1 in Python, so that equality alone would accept true for `Literal[1]`.
    return any(value == allowed and type(value) is type(allowed) for allowed in get_args(hint))


def _is_number(value: Any, hint: Any) -> bool:
    # `bool` is a subclass of `int` in Python, but true is no number in YAML.
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole_number(value: Any, hint: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_none(value: Any, hint: Any) -> bool:
    return value is None


def _is_instance(value: Any, hint: Any) -> bool:
    return isinstance(value, hint)


FITS: dict[Any, Callable[[Any, Any], bool]] = {
    Literal: _is_literal,
    float: _is_number,
    int: _is_whole_number,
    None: _is_none,
    type(None): _is_none,
    str: _is_instance,
    bool: _is_instance,
}
"""Whether a value fits a hint that contains no other hints, by the origin of the hint."""


def describe(hint: Any) -> str:
    """What a hint allows, in the words of YAML.

    >>> describe(int | None), describe(list[str]), describe(Literal["data"] | float)
    ('a whole number or null', 'a list of text', "'data' or a number")
    >>> describe(Annotated[int, RANGES[0](ge=1, le=15)]), describe(Annotated[float, RANGES[1](0)])
    ('a whole number from 1 to 15', 'a number of at least 0')
    """
    origin, args = get_origin(hint) or hint, get_args(hint)
    if origin is Annotated:
        return " ".join([describe(args[0]), *_describe_limits(range_limits(hint))])
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin is Literal:
        return _describe_literal(args)
    if origin in LISTS and args:
        return f"a list of {describe(args[0])}"
    if origin is dict and args:
        return f"a mapping of names to {describe(args[1])}"
    return _describe_plain(origin)


def _describe_plain(origin: Any) -> str:
    # Hints of other kinds, such as type variables, need not be hashable, and the table cannot be asked for them.
    return TYPE_NAMES.get(origin, "any value") if isinstance(origin, type | None) else "any value"


def _describe_literal(allowed: Sequence[Any]) -> str:
    names = ", ".join(_quoted(value) for value in allowed)
    return names if len(allowed) == 1 else f"one of {names}"


def mismatch(value: Any, hint: Any) -> HintMismatch:
    """The error for a value that does not fit its hint.

    >>> str(mismatch("slu", Literal["tanh", "silu"]))
    "expected one of 'tanh', 'silu'; 'slu' given; did you mean 'silu'?"
    """
    close = nearest(value, _allowed_texts(hint)) if isinstance(value, str) else None
    suggestion = f"; did you mean '{close}'?" if close else ""
    return HintMismatch(f"expected {describe(hint)}; {_quoted(value)} given{suggestion}")


def _coerce_range(value: Any, hint: Any) -> Any:
    """Checks the inner hint and then every limit. NaN is out of every range, since each comparison with it is false."""
    number = coerce(value, get_args(hint)[0])
    # The inner hint may be `float | None`, and null has no size.
    if isinstance(number, int | float):
        for name, limit in range_limits(hint).items():
            if not getattr(operator, name)(number, limit):
                raise mismatch(value, hint)
    return number


def range_limits(hint: Any) -> dict[str, float]:
    """The limits of an annotated hint by their names in `LIMITS`.

    >>> range_limits(Annotated[int, RANGES[0](ge=1, le=15)])
    {'ge': 1, 'le': 15}
    """
    limits: dict[str, float] = {}
    for mark in get_args(hint)[1:]:
        if not isinstance(mark, RANGES):
            # `Annotated` may hold metadata of another kind, such as a unit.
            continue
        for name in LIMITS:
            limit = getattr(mark, name, None)
            if limit is not None:
                limits[name] = limit
    return limits


def _describe_limits(limits: Mapping[str, float]) -> Iterator[str]:
    """Words for the limits, from below and then from above."""
    has_lower, has_upper = limits.keys() & {"ge", "gt"}, limits.keys() & {"le", "lt"}
    if "ge" in limits:
        yield f"from {limits['ge']} to" if has_upper else f"of at least {limits['ge']}"
    if "gt" in limits:
        yield f"above {limits['gt']}" + (" and" if has_upper else "")
    if "le" in limits and "ge" in limits:
        yield f"{limits['le']}"
    elif "le" in limits:
        yield f"at most {limits['le']}" if has_lower else f"of at most {limits['le']}"
    if "lt" in limits:
        yield f"below {limits['lt']}"


def _coerce_union(value: Any, hint: Any) -> Any:
    """A member that accepts the value as it is wins over one that converts it: 1 stays whole in `float | int`."""
    members = get_args(hint)
    containers = _containers_for(value, members)
    # With one container among the members, its own error is better: it says which item is wrong.
    if len(containers) == 1:
        return coerce(value, containers[0])
    results = []
    for member in members:
        with contextlib.suppress(HintMismatch):
            results.append(coerce(value, member))
    if not results:
        raise mismatch(value, hint)
    # A result of the value's own type was not converted.
    return next((result for result in results if type(result) is type(value)), results[0])


def _containers_for(value: Any, members: Sequence[Any]) -> list[Any]:
    """The members of a union that are lists for a list, or mappings for a mapping; none for any other value."""
    kinds: tuple[type, ...] = ()
    if isinstance(value, list):
        kinds = LISTS
    elif isinstance(value, dict):
        kinds = (dict,)
    return [member for member in members if (get_origin(member) or member) in kinds]


def _coerce_list(value: Any, hint: Any) -> list[Any]:
    if not isinstance(value, list):
        raise mismatch(value, hint)
    if not get_args(hint):
        return value
    items = []
    for index, (item, item_hint) in enumerate(zip(value, _item_hints(value, hint), strict=True)):
        try:
            items.append(coerce(item, item_hint))
        except HintMismatch as error:
            raise HintMismatch(f"item {index + 1}: {error}") from error
    return items


def _item_hints(value: list[Any], hint: Any) -> list[Any]:
    """The hint of every item of a list.

    Raises:
        HintMismatch: the hint is a tuple such as `tuple[int, int]`, and the list has another length.
    """
    args = get_args(hint)
    if (get_origin(hint) or hint) is not tuple or ... in args:
        return [args[0]] * len(value)
    if len(value) != len(args):
        raise HintMismatch(f"expected a list of {len(args)} values; {_quoted(value)} given")
    return list(args)


def _coerce_mapping(value: Any, hint: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise mismatch(value, hint)
    value_hint = get_args(hint)[1] if get_args(hint) else Any
    items = {}
    for key, item in value.items():
        try:
            items[key] = coerce(item, value_hint)
        except HintMismatch as error:
            raise HintMismatch(f"item '{key}': {error}") from error
    return items


NESTED: dict[Any, Callable[[Any, Any], Any]] = {
    Annotated: _coerce_range,
    Union: _coerce_union,
    types.UnionType: _coerce_union,
    **dict.fromkeys(LISTS, _coerce_list),
    dict: _coerce_mapping,
}
"""The checks of hints that contain other hints, by their origin."""


def _allowed_texts(hint: Any) -> list[str]:
    """Every text that a hint allows by a `Literal`, for suggestions."""
    if get_origin(hint) is Literal:
        return [arg for arg in get_args(hint) if isinstance(arg, str)]
    texts = []
    for arg in get_args(hint):
        texts += _allowed_texts(arg)
    return texts


def _quoted(value: Any) -> str:
    """A value as YAML writes it, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = f"'{value}'" if isinstance(value, str) else str(value)
    if isinstance(value, Mapping):
        # A mapping prints like a set or a template otherwise, and its kind is what is wrong.
        text = f"a mapping {text}"
    return text if len(text) <= VALUE_WIDTH else text[: VALUE_WIDTH - 3] + "..."
