"""Nodes: mappings with `_target_`. Checked against what the target takes, and built."""

from __future__ import annotations

from typing import Any

from basereward.errors import RecipeError, nearest, unknown
from basereward.recipe.checks.hints import Misfit, describe, fit
from basereward.recipe.checks.signature import MISSING, Parameter, Signature, import_target, signature_of
from basereward.recipe.checks.targets import SINGULAR, TargetError, TargetKind, check_trusted, short_names
from basereward.recipe.schema import Node
from basereward.recipe.yaml.files import shortened

# What the code gives to a target itself, in this order, before the arguments of the recipe.
SUPPLIED: dict[TargetKind, tuple[str, ...]] = {
    "heads": ("hidden_size",),
    "losses": (),
    "sources": ("name",),
    "shapes": (),
    "makers": ("folder",),
    "benchmarks": ("name",),
    "protocols": (),
}
INNER: dict[tuple[TargetKind, str], TargetKind] = {  # arguments that are nodes themselves
    ("sources", "shape"): "shapes",
    ("benchmarks", "protocol"): "protocols",
}


def check_node(node: Any, kind: TargetKind) -> tuple[Node, list[tuple[str, str]]]:
    """A node with the plain defaults of its target filled in, and its faults as (key below the node, message)."""
    if not isinstance(node, dict) or not isinstance(node.get("_target_"), str):
        return {}, [("", _no_target(node, kind))]
    try:
        check_trusted(node["_target_"], kind)
        signature = signature_of(node["_target_"], kind)
        settable = _settable(signature, node["_target_"], kind)
    except TargetError as error:
        return {}, [("_target_", str(error))]
    filled, faults = {"_target_": node["_target_"]}, []
    for name, value in node.items():
        if name == "_target_":
            continue
        try:
            filled[name], inner = _argument(name, value, node["_target_"], kind, signature, settable)
        except Misfit as error:
            inner = [("", str(error))]
        faults += [(f"{name}.{key}" if key else name, message) for key, message in inner]
    for name, parameter in settable.items():
        if name in node:
            continue
        if parameter.required:
            faults.append((name, f"missing; {node['_target_']} needs it: {describe(parameter.hint)}"))
        elif parameter.default is not MISSING:
            filled[name] = _default(parameter)
    return filled, faults


def make(node: Node, kind: TargetKind, *args: Any, **kwargs: Any) -> Any:
    """Build what a node names: its target called with `args` and `kwargs`, and then the arguments of the node.

    Raises:
        RecipeError: the node does not fit its target, or the target refuses a value (a `ValueError` of its own).
    """
    filled, faults = check_node(node, kind)
    if faults:
        lines = [f"{key}: {message}" if key else message for key, message in faults]
        raise RecipeError("\n  ".join([f"a {SINGULAR[kind]} cannot be made:", *lines]), faults)
    arguments = {name: value for name, value in filled.items() if name != "_target_"}
    target = import_target(filled["_target_"], kind)
    try:
        return target(*args, **kwargs, **arguments)
    except RecipeError:
        raise
    except ValueError as error:
        # Sources and benchmarks are called by the name that the recipe gives them, others by that of their class.
        called = f"{SINGULAR[kind]} '{args[0] if args and isinstance(args[0], str) else filled['_target_']}'"
        message = str(error)
        raise RecipeError(message if message.startswith(called) else f"{called}: {message}") from error


def _argument(
    name: str, value: Any, target: str, kind: TargetKind, signature: Signature, settable: dict[str, Parameter]
) -> tuple[Any, list[tuple[str, str]]]:
    """A value as its hint wants it, and the faults inside it where it is a node itself."""
    if (kind, name) in INNER and name in settable and isinstance(value, dict):
        return check_node(value, INNER[kind, name])
    if name in settable:
        return fit(value, settable[name].hint), []
    if name in SUPPLIED[kind] or any(name == parameter.name for parameter in signature.parameters):
        raise Misfit("the code gives this argument itself; leave it out")
    if not signature.open:
        raise Misfit(unknown(f"argument of {target}", name, settable))
    return value, []


def _settable(signature: Signature, target: str, kind: TargetKind) -> dict[str, Parameter]:
    """The arguments that a recipe may give: those after the ones that the code supplies."""
    supplied = SUPPLIED[kind]
    in_order = [parameter for parameter in signature.parameters if parameter.positional]
    if len(in_order) < len(supplied) and not signature.positions:
        raise TargetError(f"{target} cannot be a {SINGULAR[kind]}: its first argument must be {', '.join(supplied)}")
    taken = {parameter.name for parameter in in_order[: len(supplied)]}
    return {parameter.name: parameter for parameter in signature.parameters if parameter.name not in taken}


def _default(parameter: Parameter) -> Any:
    try:
        return fit(parameter.default, parameter.hint)
    except Misfit:  # `x: int = None` is common and means None
        return parameter.default


def _no_target(node: Any, kind: TargetKind) -> str:
    allowed = f"expected a mapping with `_target_`: {', '.join(short_names(kind))}, or a dotted path of your own"
    given = f"{shortened(node)} given" if node else "none given"
    slips = {word: nearest(word, map(str, node)) for word in ("_target_", "include")} if isinstance(node, dict) else {}
    hints = [f"; did you mean '{word}' by '{slip}'?" for word, slip in slips.items() if slip not in (None, word)]
    return f"{allowed}; {given}{''.join(hints)}"
