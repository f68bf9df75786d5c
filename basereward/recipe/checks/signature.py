"""The arguments of a target and their type hints, read from its source text.

A check of a recipe must not import torch, so the module of a target is parsed and not run. It is imported only when its
text does not show the arguments: with a decorator, an inherited constructor, or a class that code makes. Arguments that
a constructor hands on to that of its base class are read from the text of the base.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
import operator
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from basereward.errors import nearest
from basereward.recipe.checks.hints import RANGES
from basereward.recipe.checks.targets import Definition, Target, TargetError, TargetKind, base_class, locate

PLAIN_BASES = {"object", "ABC", "Generic", "Protocol"}
"""Base classes whose constructor has no arguments."""


class _Missing:
    """Marks the default of an argument that has none, or whose value only running code knows."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()


@dataclass(frozen=True)
class Parameter:
    """One argument of a target.

    >>> Parameter("layers", int, required=False, default=2, positional=False).name
    'layers'
    """

    name: str
    hint: Any
    required: bool
    # MISSING where the default is not a value of YAML.
    default: Any
    positional: bool


@dataclass(frozen=True)
class Signature:
    """The arguments of a target.

    Attributes:
        parameters: the named arguments in order.
        open: whether it also accepts any other keyword (`**kwargs`).
        positions: whether it accepts any number of positional arguments (`*args`).

    >>> signature_of("linear", "heads").open
    False
    """

    parameters: tuple[Parameter, ...]
    open: bool
    positions: bool


@functools.cache
def signature_of(target: str, kind: TargetKind) -> Signature:
    """The arguments of a target.

    Args:
        target: a short name or a dotted path.
        kind: the extension folder in which short names are looked up.

    Raises:
        TargetError: there is no such target, or it had to be imported and that failed.

    >>> [parameter.name for parameter in signature_of("mlp", "heads").parameters][:2]
    ['hidden_size', 'layers']
    """
    return _signature(locate(target, kind))


def _signature(located: Target) -> Signature:
    function = _constructor(located.definition) if located.definition else None
    if function is None:
        return _imported_signature(located)
    aliases = dict(_aliases(located.body))
    # A class passes `self` itself, so the first argument of its constructor is left out.
    skip = int(isinstance(located.definition, ast.ClassDef))
    arguments = function.args
    parameters = [*itertools.islice(_positional(arguments, aliases), skip, None), *_keyword_only(arguments, aliases)]
    own = Signature(tuple(parameters), arguments.kwarg is not None, arguments.vararg is not None)
    return _with_inherited(own, located, function)


def _with_inherited(own: Signature, located: Target, function: ast.FunctionDef) -> Signature:
    """The arguments with those of the base class that `super().__init__(..., **options)` hands on."""
    call = _super_call(function)
    base = base_class(located) if call is not None else None
    if call is None or base is None:
        return own
    inherited = _signature(base)
    given = {parameter.name for parameter in own.parameters} | {str(keyword.arg) for keyword in call.keywords}
    rest = [parameter for parameter in inherited.parameters[len(call.args) :] if parameter.name not in given]
    return Signature((*own.parameters, *rest), inherited.open, own.positions)


def _super_call(function: ast.FunctionDef) -> ast.Call | None:
    """The call of the base class's constructor that gets all further keywords; None where there is none."""
    if function.args.kwarg is None:
        return None
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "super().__init__":
            handed_on = [ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg is None]
            return node if handed_on == [function.args.kwarg.arg] else None
    return None


def import_target(target: str, kind: TargetKind) -> Any:
    """Imports the class or function.

    Raises:
        TargetError: it does not exist, or its module cannot be imported.

    >>> import_target("math.sqrt", "heads")
    <built-in function sqrt>
    """
    return _import(locate(target, kind))


def _constructor(definition: Definition) -> ast.FunctionDef | None:
    """The function that has the arguments; None when a decorator or a base class may change them."""
    if definition.decorator_list:
        return None
    if isinstance(definition, ast.FunctionDef):
        return definition
    for node in definition.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return None if node.decorator_list else node
    if definition.keywords or any(_base_name(base) not in PLAIN_BASES for base in definition.bases):
        return None
    # A class without a constructor has no arguments; this function lets the caller treat it as every other.
    return ast.parse("def __init__(self): ...").body[0]  # type: ignore[return-value]


def _base_name(base: ast.expr) -> str:
    if isinstance(base, ast.Subscript):
        base = base.value
    if isinstance(base, ast.Attribute):
        return base.attr
    return base.id if isinstance(base, ast.Name) else ""


def _aliases(body: tuple[ast.stmt, ...]) -> Iterator[tuple[str, ast.expr]]:
    """The names that a module assigns to expressions, which may be type hints."""
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
        yield Parameter(name.arg, hint, default is None, _default_of(default), positional=True)


def _keyword_only(arguments: ast.arguments, aliases: dict[str, ast.expr]) -> Iterator[Parameter]:
    for name, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        hint = hint_of(name.annotation, aliases=aliases)
        yield Parameter(name.arg, hint, default is None, _default_of(default), positional=False)


def _default_of(default: ast.expr | None) -> Any:
    """A default as a value of YAML; MISSING where there is none."""
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


def _import(located: Target) -> Any:
    try:
        module = importlib.import_module(located.module)
    except Exception as error:
        # A module of the user may raise anything, and the recipe that names it is wrong then.
        raise TargetError(f"module '{located.module}' cannot be imported: {type(error).__name__}: {error}") from error
    try:
        return operator.attrgetter(located.name)(module)
    except AttributeError as error:
        close = nearest(located.name, dir(module))
        suggestion = f"; did you mean '{located.module}.{close}'?" if close else ""
        raise TargetError(f"module '{located.module}' has no '{located.name}'{suggestion}") from error


def _imported_signature(located: Target) -> Signature:
    target = _import(located)
    if not callable(target):
        raise TargetError(f"'{located.module}.{located.name}' is no class and no function")
    try:
        signature = _inspect(target)
    except (ValueError, TypeError):
        # Some C code has no signature; the call itself reports a wrong argument.
        return Signature((), open=True, positions=True)
    # `inspect` leaves out `self` of a class, so nothing is skipped here.
    inspected = list(signature.parameters.values())
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = tuple(_parameter(parameter) for parameter in inspected if parameter.kind not in variadic)
    kinds = {parameter.kind for parameter in inspected}
    return Signature(parameters, inspect.Parameter.VAR_KEYWORD in kinds, inspect.Parameter.VAR_POSITIONAL in kinds)


def _inspect(target: Any) -> inspect.Signature:
    try:
        return inspect.signature(target, eval_str=True)
    except NameError:
        # A hint names a class that is imported only under TYPE_CHECKING.
        return inspect.signature(target)


def _parameter(parameter: inspect.Parameter) -> Parameter:
    annotation, is_required = parameter.annotation, parameter.default is parameter.empty
    hint = Any if annotation is parameter.empty or isinstance(annotation, str) else annotation
    default = MISSING if is_required else _as_yaml(parameter.default)
    return Parameter(parameter.name, hint, is_required, default, parameter.kind != parameter.KEYWORD_ONLY)


# Type hints from the syntax tree of an annotation.

PLAIN: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "None": None,
    # YAML has no paths, so that the class gets the text.
    "Path": str,
    "PathLike": str,
}
"""Hints of the names that stand for themselves."""
CONTAINERS: dict[str, Any] = {
    **dict.fromkeys(("list", "List", "Sequence", "Iterable", "Collection"), list),
    **dict.fromkeys(("set", "Set", "frozenset"), list),
    **dict.fromkeys(("tuple", "Tuple"), tuple),
    **dict.fromkeys(("dict", "Dict", "Mapping", "MutableMapping"), dict),
}
"""The container of YAML, a list or a mapping, for the names of Python's containers."""


def hint_of(node: ast.expr | None, *, aliases: Mapping[str, ast.expr]) -> Any:
    """The type hint of an annotation; `Any`, which is not checked, where it names a class or a constant.

    Args:
        node: the expression of the annotation; None where the argument has none.
        aliases: the expressions that the module assigns to names, such as `Activation = Literal["tanh", "silu"]`.

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
        # Without the alias itself, since an alias that names itself would be an endless recursion.
        others = {other: node for other, node in aliases.items() if other != name}
        return hint_of(aliases[name], aliases=others)
    return PLAIN.get(name, CONTAINERS.get(name, Any))


def _subscript(node: ast.Subscript, aliases: Mapping[str, ast.expr]) -> Any:
    """The hint of `Name[...]`: a literal, a range, a union or a container; `Any` for another generic class."""
    name = _last_name(node.value)
    items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Literal":
        return _literal(items)
    if name in ("Annotated", "Final"):
        return _annotated(items, aliases)
    # `tuple[int, ...]` has an ellipsis among its items, which is no type.
    inner = [... if _is_ellipsis(item) else hint_of(item, aliases=aliases) for item in items]
    if name == "Optional":
        return _union([inner[0], None])
    if name == "Union":
        return _union(inner)
    container = CONTAINERS.get(name)
    return container[tuple(inner)] if container else Any


def _annotated(items: Sequence[ast.expr], aliases: Mapping[str, ast.expr]) -> Any:
    """The hint of `Annotated[type, ...]` with its ranges; other metadata is left out."""
    hint = hint_of(items[0], aliases=aliases)
    ranges = []
    for item in items[1:]:
        limits = _range(item)
        if limits is not None:
            ranges.append(limits)
    return Annotated[(hint, *ranges)] if ranges else hint


def _literal(items: Sequence[ast.expr]) -> Any:
    try:
        return Literal[tuple(ast.literal_eval(item) for item in items)]
    except ValueError:
        # An item is a constant by name, whose value only the running module has.
        return Any


def _range(node: ast.expr) -> Any:
    """The range of a call such as `Interval(ge=0, lt=1)` or `Ge(1)`; None for any other expression."""
    if not isinstance(node, ast.Call):
        return None
    try:
        args = [ast.literal_eval(value) for value in node.args]
        kwargs = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
    except ValueError:
        # A limit is a constant by name, whose value only the running module has.
        return None
    for range_type in RANGES:
        if range_type.__name__ == _last_name(node.func):
            return range_type(*args, **kwargs)
    return None


def _union(members: Sequence[Any]) -> Any:
    if Any in members:
        return Any
    # `None | None` is an error in Python, and NoneType is not.
    return functools.reduce(operator.or_, [types.NoneType if hint is None else hint for hint in members])


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...
