"""Type hints read from source text, so that a class can be checked without importing what its module imports."""

from __future__ import annotations

import ast
import functools
import operator
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from basereward.recipe.checks.hints import RANGES

PLAIN: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "None": None,
    "Path": str,  # YAML has no paths; the class gets the text
    "PathLike": str,
}
CONTAINERS: dict[str, Any] = {
    **dict.fromkeys(("list", "List", "Sequence", "Iterable", "Collection"), list),
    **dict.fromkeys(("set", "Set", "frozenset"), list),
    **dict.fromkeys(("tuple", "Tuple"), tuple),
    **dict.fromkeys(("dict", "Dict", "Mapping", "MutableMapping"), dict),
}


def hint_of(node: ast.expr | None, *, aliases: Mapping[str, ast.expr]) -> Any:
    """The hint that an annotation stands for; `Any` where it names something that is not looked up.

    Args:
        node: the annotation's expression; None when there is none.
        aliases: what the module gives names to, such as `Activation = Literal["tanh", "silu"]`.

    >>> hint_of(ast.parse("Literal['data'] | float", mode="eval").body, aliases={})
    typing.Union[typing.Literal['data'], float]
    """
    if isinstance(node, ast.Constant):
        return _constant(node, aliases)
    if isinstance(node, ast.Name | ast.Attribute):
        return _named(_last_name(node), aliases)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union([hint_of(side, aliases=aliases) for side in (node.left, node.right)])
    if isinstance(node, ast.Subscript):
        return _subscript(node, aliases)
    return Any


def _constant(node: ast.Constant, aliases: Mapping[str, ast.expr]) -> Any:
    if node.value is None:
        return None
    if not isinstance(node.value, str):
        return Any
    try:
        return hint_of(ast.parse(node.value, mode="eval").body, aliases=aliases)
    except SyntaxError:
        return Any


def _named(name: str, aliases: Mapping[str, ast.expr]) -> Any:
    if name in aliases:
        others = {other: node for other, node in aliases.items() if other != name}
        return hint_of(aliases[name], aliases=others)
    return PLAIN.get(name, CONTAINERS.get(name, Any))


def _subscript(node: ast.Subscript, aliases: Mapping[str, ast.expr]) -> Any:
    name = _last_name(node.value)
    items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Literal":
        return _literal(items)
    if name in ("Annotated", "Final"):
        hint = hint_of(items[0], aliases=aliases)
        ranges = [found for item in items[1:] if (found := _range(item)) is not None]
        return Annotated[(hint, *ranges)] if ranges else hint
    inner = [... if _is_ellipsis(item) else hint_of(item, aliases=aliases) for item in items]
    if name == "Optional":
        return _union([inner[0], None])
    if name == "Union":
        return _union(inner)
    container = CONTAINERS.get(name)
    return container[tuple(inner)] if container else Any


def _literal(items: list[ast.expr]) -> Any:
    try:
        return Literal[tuple(ast.literal_eval(item) for item in items)]
    except ValueError:
        return Any  # a constant by name: known only when the module runs


def _range(node: ast.expr) -> Any:
    """The range that a mark such as `Interval(ge=0, lt=1)` or `Ge(1)` sets; None for another mark."""
    if not isinstance(node, ast.Call):
        return None
    try:
        values = [ast.literal_eval(value) for value in node.args]
        named = {str(each.arg): ast.literal_eval(each.value) for each in node.keywords}
    except ValueError:
        return None  # a constant by name
    kinds = (kind for kind in RANGES if kind.__name__ == _last_name(node.func))
    return next((kind(*values, **named) for kind in kinds), None)


def _union(members: list[Any]) -> Any:
    return Any if Any in members else functools.reduce(operator.or_, map(_orable, members))


def _orable(hint: Any) -> Any:
    return types.NoneType if hint is None else hint


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...
