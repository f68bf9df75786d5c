"""What a head that speaks cannot be combined with."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from basereward.recipe.schema import Node, Recipe
from basereward.recipe.targets import TargetError, locate


def pooling(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """A head that speaks reads the place where its text ends."""
    given, head = recipe.model.pooling, recipe.model.head
    if given != "last" and speaks(head):
        name = head["_target_"]
        yield "model.pooling", f"head '{name}' speaks, and reads where its text ends; '{given}' given. Allowed: last"


def speaks(head: Node) -> bool:
    """Whether a head's text defines `judge`. One that inherits it is found out when it is made."""
    try:
        definition = locate(str(head.get("_target_", "")), "heads").definition
    except TargetError:  # a fault of its own
        return False
    inner = definition.body if isinstance(definition, ast.ClassDef) else []
    return any(isinstance(each, ast.FunctionDef) and each.name == "judge" for each in inner)
