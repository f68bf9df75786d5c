"""What a head that speaks cannot be combined with."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from basereward.recipe.checks.targets import TargetError, check_trusted, locate
from basereward.recipe.schema import Node, Recipe


def pooling(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """A head that speaks reads the place where its text ends."""
    given, head = recipe.model.pooling, recipe.model.head
    if given != "last" and speaks(head):
        name = head["_target_"]
        yield "model.pooling", f"head '{name}' speaks, and reads where its text ends; '{given}' given. Allowed: last"


def draws(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Several texts about the same differ only where they are drawn."""
    head = recipe.model.head
    if not speaks(head) or head.get("temperature", 1.0):
        return
    for name in ("samples", "votes"):
        if (number := head.get(name, 1)) > 1:
            yield f"model.head.{name}", f"at temperature 0 all {number} would be the same; set temperature above 0"


def votes(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Votes are of reasoning; of a single token the probability is known."""
    head = recipe.model.head
    if speaks(head) and head.get("votes", 1) > 1 and not head.get("thinking", True):
        yield "model.head.votes", f"{head['votes']} votes need thinking: true; without, one token says all"


def speaks(head: Node) -> bool:
    """Whether the source of a head defines `judge` and sets `branch_template`, which every generative head must have.

    A head that inherits them is recognised when it is built.
    """
    target = str(head.get("_target_", ""))
    try:
        check_trusted(target, "heads")
        definition = locate(target, "heads").definition
    except TargetError:  # a fault of its own
        return False
    inner = definition.body if isinstance(definition, ast.ClassDef) else []
    judges = any(isinstance(each, ast.FunctionDef) and each.name == "judge" for each in inner)
    return judges and any(_sets_template(node) for each in inner for node in ast.walk(each))


def _sets_template(node: ast.AST) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return any(getattr(target, "attr", getattr(target, "id", None)) == "branch_template" for target in targets)
