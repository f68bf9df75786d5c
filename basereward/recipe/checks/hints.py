"""Whether a value fits a type hint, said in the words of a person who writes YAML."""

from __future__ import annotations

import contextlib
import operator
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types

from basereward.errors import nearest

WORDS: dict[Any, str] = {
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


class Misfit(ValueError):
    """A value does not fit its hint; the message says what was expected and given, and the nearest right value."""


def fit(value: Any, hint: Any) -> Any:
    """The value as its hint wants it: a whole number becomes a float where a float is expected, nothing else changes.

    A hint of a kind that no YAML value has (a class, say) is not checked.

    Raises:
        Misfit: the value is of another type, not among the allowed ones, or out of its range.

    >>> fit(1, float), fit(["vision"], list[str]), fit(None, int | None)
    (1.0, ['vision'], None)
    >>> fit("slu", Literal["tanh", "silu"])
    Traceback (most recent call last):
    basereward.recipe.checks.hints.Misfit: expected one of 'tanh', 'silu'; 'slu' given; did you mean 'silu'?
    """
    origin = get_origin(hint) or hint
    if origin in NESTED:
        return NESTED[origin](value, hint)
    if origin is Literal:
        fits = any(value == allowed and type(value) is type(allowed) for allowed in get_args(hint))
    elif origin is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        value = float(value) if fits else value
    elif origin is int:
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif origin in (None, type(None)):
        fits = value is None
    elif origin in (str, bool):
        fits = isinstance(value, origin)
    else:
        return value
    if not fits:
        raise misfit(value, hint)
    return value


def describe(hint: Any) -> str:
    """What a hint allows.

    >>> describe(int | None), describe(list[str]), describe(Literal["data"] | float)
    ('a whole number or null', 'a list of text', "'data' or a number")
    >>> describe(Annotated[int, RANGES[0](ge=1, le=15)]), describe(Annotated[float, RANGES[1](0)])
    ('a whole number from 1 to 15', 'a number of at least 0')
    """
    origin, args = get_origin(hint) or hint, get_args(hint)
    if origin is Annotated:
        return " ".join([describe(args[0]), *_in_words(_limits(hint))])
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin is Literal:
        names = ", ".join(_quoted(arg) for arg in args)
        return names if len(args) == 1 else f"one of {names}"
    if origin in LISTS and args:
        return f"a list of {describe(args[0])}"
    if origin is dict and args:
        return f"a mapping of names to {describe(args[1])}"
    return WORDS.get(origin, "any value") if isinstance(origin, type | None) else "any value"


def misfit(value: Any, hint: Any) -> Misfit:
    """The error for a value that does not fit."""
    close = nearest(value, _words(hint)) if isinstance(value, str) else None
    return Misfit(
        f"expected {describe(hint)}; {_quoted(value)} given" + (f"; did you mean '{close}'?" if close else "")
    )


def _fit_range(value: Any, hint: Any) -> Any:
    """A value of the inner hint that keeps every limit; NaN keeps none."""
    fitted = fit(value, get_args(hint)[0])
    numbers = isinstance(fitted, int | float)
    if numbers and not all(getattr(operator, name)(fitted, limit) for name, limit in _limits(hint).items()):
        raise misfit(value, hint)
    return fitted


def _limits(hint: Any) -> dict[str, float]:
    """The limits of an annotated hint by the name of their operator: ge, gt, le, lt."""
    marks = [mark for mark in get_args(hint)[1:] if isinstance(mark, RANGES)]
    found = [(name, getattr(mark, name, None)) for mark in marks for name in ("ge", "gt", "le", "lt")]
    return {name: limit for name, limit in found if limit is not None}


def _in_words(limits: Mapping[str, float]) -> Iterator[str]:
    """What limits allow, from below and from above."""
    below, above = limits.keys() & {"ge", "gt"}, limits.keys() & {"le", "lt"}
    if "ge" in limits:
        yield f"from {limits['ge']} to" if above else f"of at least {limits['ge']}"
    if "gt" in limits:
        yield f"above {limits['gt']}" + (" and" if above else "")
    if "le" in limits:
        yield (
            f"{limits['le']}"
            if "ge" in limits
            else f"at most {limits['le']}"
            if below
            else f"of at most {limits['le']}"
        )
    if "lt" in limits:
        yield f"below {limits['lt']}"


def _fit_union(value: Any, hint: Any) -> Any:
    """The member that takes the value as it is wins over one that changes it: 1 stays whole in `float | int`."""
    members = get_args(hint)
    if isinstance(value, list | dict):  # the one container among the members says which of the items is wrong
        kinds = LISTS if isinstance(value, list) else (dict,)
        containers = [member for member in members if (get_origin(member) or member) in kinds]
        if len(containers) == 1:
            return fit(value, containers[0])
    fitted = []
    for member in members:
        with contextlib.suppress(Misfit):
            fitted.append(fit(value, member))
    if not fitted:
        raise misfit(value, hint)
    return next((result for result in fitted if type(result) is type(value)), fitted[0])


def _fit_list(value: Any, hint: Any) -> list[Any]:
    if not isinstance(value, list):
        raise misfit(value, hint)
    args = [arg for arg in get_args(hint) if arg is not ...]
    if not args:
        return value
    fixed = (get_origin(hint) or hint) is tuple and ... not in get_args(hint)
    if fixed and len(value) != len(args):
        raise Misfit(f"expected a list of {len(args)} values; {_quoted(value)} given")
    result = []
    for index, item in enumerate(value):
        try:
            result.append(fit(item, args[index] if fixed else args[0]))
        except Misfit as error:
            raise Misfit(f"item {index + 1}: {error}") from error
    return result


def _fit_mapping(value: Any, hint: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise misfit(value, hint)
    inner = get_args(hint)[1] if get_args(hint) else Any
    result = {}
    for key, item in value.items():
        try:
            result[key] = fit(item, inner)
        except Misfit as error:
            raise Misfit(f"item '{key}': {error}") from error
    return result


NESTED: dict[Any, Callable[[Any, Any], Any]] = {  # hints that hold others
    Annotated: _fit_range,
    Union: _fit_union,
    types.UnionType: _fit_union,
    **dict.fromkeys(LISTS, _fit_list),
    dict: _fit_mapping,
}


def _words(hint: Any) -> list[str]:
    """Every text that a hint allows by name."""
    if get_origin(hint) is Literal:
        return [arg for arg in get_args(hint) if isinstance(arg, str)]
    return [word for arg in get_args(hint) for word in _words(arg)]


def _quoted(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = f"'{value}'" if isinstance(value, str) else str(value)
    if isinstance(value, Mapping):
        text = f"a mapping {text}"
    return text if len(text) <= 80 else text[:77] + "..."
