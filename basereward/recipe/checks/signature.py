"""The arguments of a target, read from its source text; it is imported only when the text does not tell."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from basereward.errors import nearest
from basereward.recipe.checks.annotations import hint_of
from basereward.recipe.checks.targets import Definition, Target, TargetError, TargetKind, locate

PLAIN_BASES = {"object", "ABC", "Generic", "Protocol"}  # bases that bring no arguments


class _Missing:
    """The default of an argument that has none, or one that only running code can tell."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()


@dataclass(frozen=True)
class Parameter:
    """One argument of a target."""

    name: str
    hint: Any
    required: bool
    default: Any  # MISSING where it is no plain value
    positional: bool


@dataclass(frozen=True)
class Signature:
    """The arguments of a target; `open` says that it takes any others as well, and `positions` any number in order."""

    parameters: tuple[Parameter, ...]
    open: bool
    positions: bool


@functools.cache
def signature_of(target: str, kind: TargetKind) -> Signature:
    """What a target takes.

    Raises:
        TargetError: there is no such target, or it had to be imported and that failed.
    """
    found = locate(target, kind)
    function = _function(found.definition) if found.definition else None
    if function is None:
        return _by_import(found)
    aliases = dict(_aliases(found.body))
    skip = int(isinstance(found.definition, ast.ClassDef))  # self
    arguments = function.args
    parameters = [*itertools.islice(_positional(arguments, aliases), skip, None), *_keyword_only(arguments, aliases)]
    return Signature(tuple(parameters), arguments.kwarg is not None, arguments.vararg is not None)


def import_target(target: str, kind: TargetKind) -> Any:
    """The class or function itself.

    Raises:
        TargetError: there is none, or its module cannot be imported.
    """
    return _load(locate(target, kind))


def _function(definition: Definition) -> ast.FunctionDef | None:
    """Where the arguments stand; None when something outside of the text decides: a decorator, a base class."""
    if definition.decorator_list:
        return None
    if isinstance(definition, ast.FunctionDef):
        return definition
    for node in definition.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return None if node.decorator_list else node
    if definition.keywords or any(_base_name(base) not in PLAIN_BASES for base in definition.bases):
        return None
    return ast.parse("def __init__(self): ...").body[0]  # type: ignore[return-value]


def _base_name(base: ast.expr) -> str:
    if isinstance(base, ast.Subscript):
        base = base.value
    if isinstance(base, ast.Attribute):
        return base.attr
    return base.id if isinstance(base, ast.Name) else ""


def _aliases(body: tuple[ast.stmt, ...]) -> Iterator[tuple[str, ast.expr]]:
    """Names that a module gives to expressions, which may be hints."""
    for node in body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value


def _positional(arguments: ast.arguments, aliases: dict[str, ast.expr]) -> Iterator[Parameter]:
    names = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(names) - len(arguments.defaults))
    for name, default in zip(names, [*defaults, *arguments.defaults], strict=True):
        hint = hint_of(name.annotation, aliases=aliases)
        yield Parameter(name.arg, hint, default is None, _plain(default), positional=True)


def _keyword_only(arguments: ast.arguments, aliases: dict[str, ast.expr]) -> Iterator[Parameter]:
    for name, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        hint = hint_of(name.annotation, aliases=aliases)
        yield Parameter(name.arg, hint, default is None, _plain(default), positional=False)


def _plain(default: ast.expr | None) -> Any:
    """A default as YAML writes it."""
    if default is None:
        return MISSING
    try:
        return _as_yaml(ast.literal_eval(default))
    except ValueError:
        return MISSING


def _as_yaml(value: Any) -> Any:
    if isinstance(value, tuple | list):
        items = [_as_yaml(item) for item in value]
        return MISSING if MISSING in items else items
    if isinstance(value, dict):
        return MISSING if value else {}
    return value if value is None or isinstance(value, bool | int | float | str) else MISSING


def _load(found: Target) -> Any:
    try:
        module = importlib.import_module(found.module)
    except Exception as error:  # a user's module may raise anything, and the recipe is at fault then
        raise TargetError(f"module '{found.module}' cannot be imported: {type(error).__name__}: {error}") from error
    try:
        return operator.attrgetter(found.name)(module)
    except AttributeError as error:
        close = nearest(found.name, dir(module))
        hint = f"; did you mean '{found.module}.{close}'?" if close else ""
        raise TargetError(f"module '{found.module}' has no '{found.name}'{hint}") from error


def _by_import(found: Target) -> Signature:
    target = _load(found)
    if not callable(target):
        raise TargetError(f"'{found.module}.{found.name}' is no class and no function")
    try:
        signature = _inspected(target)
    except (ValueError, TypeError):
        return Signature((), open=True, positions=True)  # C code that does not tell
    given = list(signature.parameters.values())
    parameters = tuple(_parameter(one) for one in given if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL))
    kinds = {one.kind for one in given}
    return Signature(parameters, inspect.Parameter.VAR_KEYWORD in kinds, inspect.Parameter.VAR_POSITIONAL in kinds)


def _inspected(target: Any) -> inspect.Signature:
    try:
        return inspect.signature(target, eval_str=True)
    except NameError:  # a hint that is imported for type checkers only
        return inspect.signature(target)


def _parameter(one: inspect.Parameter) -> Parameter:
    hint = Any if one.annotation is one.empty or isinstance(one.annotation, str) else one.annotation
    default = MISSING if one.default is one.empty else _as_yaml(one.default)
    return Parameter(one.name, hint, one.default is one.empty, default, one.kind != one.KEYWORD_ONLY)
