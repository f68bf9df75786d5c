"""Checks and builds nodes: mappings whose `_target_` names a class or function; the other keys are its arguments."""

from __future__ import annotations

import traceback
from typing import Any

from basereward.errors import BaseRewardError, RecipeError, nearest, unknown
from basereward.recipe.checks.hints import HintMismatch, coerce, describe
from basereward.recipe.checks.signature import MISSING, Parameter, Signature, import_target, signature_of
from basereward.recipe.checks.targets import SINGULAR, TargetError, TargetKind, check_trusted, short_names
from basereward.recipe.schema import Node
from basereward.recipe.yaml.files import shortened

SUPPLIED: dict[TargetKind, tuple[str, ...]] = {
    "heads": ("hidden_size",),
    "losses": (),
    "objectives": ("loss",),
    "sources": ("name",),
    "adapters": (),
    "tiny_models": ("folder",),
    "benchmarks": ("name",),
    "protocols": (),
    "launchers": (),
    "rewards": (),
    "stages": (),
    "references": ("name",),
}
"""The positional arguments that the code passes to a target before those of the recipe, in their order."""
INNER: dict[tuple[TargetKind, str], TargetKind] = {
    ("sources", "source"): "sources",
    ("sources", "shape"): "adapters",
    ("benchmarks", "protocol"): "protocols",
    ("objectives", "reward"): "rewards",
    ("stages", "source"): "sources",
    ("references", "source"): "sources",
    ("references", "shape"): "adapters",
    ("references", "protocol"): "protocols",
}
"""Arguments that are nodes themselves, and the extension folder of these."""


def check_node(node: Any, kind: TargetKind) -> tuple[Node, list[tuple[str, str]]]:
    """Checks a node against the arguments of its target, without importing it.

    Args:
        node: a value from YAML that should be a node.
        kind: the extension folder in which a short name is looked up.

    Returns:
        The node with the default arguments of its target filled in, and pairs of a key below the node and a message.

    >>> check_node({"_target_": "linear", "biass": False}, "heads")[1]
    [('biass', "unknown argument of linear 'biass'; did you mean 'bias'? Allowed: bias.")]
    """
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        return {}, [("", _no_target(node, kind))]
    try:
        check_trusted(node["_target_"], kind)
        signature = signature_of(node["_target_"], kind)
        settable = settable_arguments(signature, node["_target_"], kind)
    except TargetError as error:
        return {}, [("_target_", str(error))]
    filled, faults = _check_given(node, kind, signature, settable)
    defaults, missing = _fill_defaults(node, settable)
    return filled | defaults, [*faults, *missing]


def make(node: Node, kind: TargetKind, *args: Any, **kwargs: Any) -> Any:
    """Builds the object that a node describes.

    Args:
        node: a mapping with `_target_`.
        kind: the extension folder in which a short name is looked up.
        args: positional arguments from the code, as in `SUPPLIED`.
        kwargs: keyword arguments from the code.

    Raises:
        RecipeError: the node has a fault, the target raised a ValueError for one of its arguments, or a target outside
            of this package raised any error.

    >>> make({"_target_": "linear"}, "heads", 8)
    Linear(...)
    """
    filled, faults = check_node(node, kind)
    if faults:
        # All faults at once, because each call of a command for the next one may take seconds.
        lines = [f"{key}: {message}" if key else message for key, message in faults]
        raise RecipeError("\n  ".join([f"cannot build this {SINGULAR[kind]}:", *lines]), faults)
    arguments = {name: value for name, value in filled.items() if name != "_target_"}
    target = import_target(filled["_target_"], kind)
    try:
        return _call(target, f"{SINGULAR[kind]} '{filled['_target_']}'", args, kwargs | arguments)
    except RecipeError:
        # It already says what is wrong and where, for example when a source builds an adapter of its own.
        raise
    except ValueError as error:
        # Sources and benchmarks have a name in the recipe, which is their first argument; others have only the target.
        name = args[0] if args and isinstance(args[0], str) else filled["_target_"]
        raise RecipeError(_titled(f"{SINGULAR[kind]} '{name}'", str(error))) from error


def _call(target: Any, title: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls a target. Any error of a part of the user's own is an error of the recipe; one of ours is a bug."""
    try:
        return target(*args, **kwargs)
    except (BaseRewardError, OSError, MemoryError, ValueError):
        raise
    except Exception as error:
        if is_own(target):
            raise
        raise RecipeError(f"{title} cannot be built: {foreign_fault(error)}") from error


def is_own(target: Any) -> bool:
    """Whether a class or function is of this package.

    >>> is_own(make), is_own(dict)
    (True, False)
    """
    return str(getattr(target, "__module__", "")).partition(".")[0] == __name__.partition(".")[0]


def foreign_fault(error: BaseException) -> str:
    """An error of the user's own code, for a message: its text, its place, and what to do where that is known.

    >>> try:
    ...     {}["width"]
    ... except KeyError as error:
    ...     foreign_fault(error)
    "KeyError: 'width' (<doctest ..., line 2)"
    """
    frames = traceback.extract_tb(error.__traceback__)
    # The innermost frame outside of libraries is where the user's code is at fault.
    frame = next((entry for entry in reversed(frames) if "site-packages" not in entry.filename), frames[-1])
    text = str(error) or "it has no message"
    fault = f"{type(error).__name__}: {text} ({frame.filename}, line {frame.lineno})"
    if "Module.__init__() call" in text:
        fault += ". Call `super().__init__(...)` first in its `__init__`"
    return fault


def _titled(title: str, message: str) -> str:
    """The message with the title before it, unless it begins with the title already."""
    return message if message.startswith(title) else f"{title}: {message}"


def _check_given(
    node: Node, kind: TargetKind, signature: Signature, settable: dict[str, Parameter]
) -> tuple[Node, list[tuple[str, str]]]:
    """The node with every given argument coerced to its hint, and the faults of these arguments."""
    target = node["_target_"]
    checked: Node = {"_target_": target}
    faults: list[tuple[str, str]] = []
    for name, value in node.items():
        if name == "_target_":
            continue
        try:
            checked[name], inner = _argument(name, value, target, kind, signature, settable)
        except HintMismatch as error:
            inner = [("", str(error))]
        # Faults of a nested node have a key of their own below the name of the argument.
        faults += [(f"{name}.{key}" if key else name, message) for key, message in inner]
    return checked, faults


def _fill_defaults(node: Node, settable: dict[str, Parameter]) -> tuple[Node, list[tuple[str, str]]]:
    """The defaults of the arguments that are not given, and a fault for each required one."""
    defaults: Node = {}
    faults: list[tuple[str, str]] = []
    # Every argument is stored with its value, so that a saved recipe keeps its meaning when a default changes.
    for name, parameter in settable.items():
        if name in node:
            continue
        if parameter.required:
            faults.append((name, f"missing; {node['_target_']} needs it: {describe(parameter.hint)}"))
        elif parameter.default is not MISSING:
            defaults[name] = _default(parameter)
    return defaults, faults


def _argument(
    name: str, value: Any, target: str, kind: TargetKind, signature: Signature, settable: dict[str, Parameter]
) -> tuple[Any, list[tuple[str, str]]]:
    """The value of one argument, coerced to its hint, and its faults where it is a node itself.

    Raises:
        HintMismatch: the value is wrong, or the target has no such argument.
    """
    if (kind, name) in INNER and name in settable and isinstance(value, dict):
        return check_node(value, INNER[kind, name])
    if name in settable:
        return coerce(value, settable[name].hint), []
    if name in SUPPLIED[kind] or any(name == parameter.name for parameter in signature.parameters):
        raise HintMismatch("the code sets this argument itself; remove it from the recipe")
    if not signature.open:
        raise HintMismatch(unknown(f"argument of {target}", name, settable))
    # `**kwargs` accepts any name, and has no hint to check the value against.
    return value, []


def settable_arguments(signature: Signature, target: str, kind: TargetKind) -> dict[str, Parameter]:
    """The arguments that a recipe may give: all but the positional ones that the code supplies."""
    supplied = SUPPLIED[kind]
    in_order = [parameter for parameter in signature.parameters if parameter.positional]
    if len(in_order) < len(supplied) and not signature.positions:
        raise TargetError(f"{target} cannot be a {SINGULAR[kind]}: its first argument must be {', '.join(supplied)}")
    # By position, not by name: a class of a user may call its first argument as it likes.
    taken = {parameter.name for parameter in in_order[: len(supplied)]}
    return {parameter.name: parameter for parameter in signature.parameters if parameter.name not in taken}


def _default(parameter: Parameter) -> Any:
    try:
        return coerce(parameter.default, parameter.hint)
    except HintMismatch:
        # `x: int = None` is common in code of users and means None, so a default may contradict its own hint.
        return parameter.default


def _no_target(node: Any, kind: TargetKind) -> str:
    """The message for a value that is no node, with a suggestion for a misspelt `_target_` or `include`."""
    allowed = f"expected a mapping with `_target_`: {', '.join(short_names(kind))}, or a dotted path of your own"
    given = f"{shortened(node)} given" if node else "none given"
    suggestions = ""
    if isinstance(node, dict):
        for word in ("_target_", "include"):
            close = nearest(word, map(str, node))
            if close not in (None, word):
                suggestions += f"; did you mean '{word}' by '{close}'?"
    return f"{allowed}; {given}{suggestions}"
