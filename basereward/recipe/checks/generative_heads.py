"""Keys that a generative head cannot be combined with.

A generative head (`basereward.model.heads.generative`, `critic`, `rating`) writes text with the backbone and scores by
it; a scalar head reads one hidden state.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from basereward.recipe.checks.targets import TargetError, check_trusted, locate
from basereward.recipe.schema import Node, Recipe

GENERATIVE_METHOD = "judge"
GENERATIVE_ATTRIBUTE = "branch_template"
"""What the class of every generative head defines and sets; the source is searched for them, without an import."""


def pooling_problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """A generative head reads the hidden state at the end of its text.

    >>> from basereward.recipe.schema import ModelRecipe
    >>> recipe = Recipe(model=ModelRecipe(head={"_target_": "critic"}, pooling="mean"))
    >>> [key for key, message in pooling_problems(recipe)]
    ['model.pooling']
    """
    pooling, head = recipe.model.pooling, recipe.model.head
    if pooling != "last" and is_generative(head):
        name = head["_target_"]
        yield "model.pooling", f"generative head '{name}' requires model.pooling=last; '{pooling}' given"


def sampling_problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Several texts for one response need sampling: at temperature 0 they are equal.

    >>> from basereward.recipe.schema import ModelRecipe
    >>> recipe = Recipe(model=ModelRecipe(head={"_target_": "critic", "samples": 4, "temperature": 0.0}))
    >>> [key for key, message in sampling_problems(recipe)]
    ['model.head.samples']
    """
    head = recipe.model.head
    if not is_generative(head) or head.get("temperature", 1.0):
        return
    for name in ("samples", "votes"):
        if (number := head.get(name, 1)) > 1:
            message = f"at temperature 0 all {number} would be the same; set model.head.temperature above 0"
            yield f"model.head.{name}", message


def vote_problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Votes need reasoning: without it, the probability of the verdict's one token is known exactly.

    >>> from basereward.recipe.schema import ModelRecipe
    >>> recipe = Recipe(model=ModelRecipe(head={"_target_": "generative", "votes": 3, "thinking": False}))
    >>> [key for key, message in vote_problems(recipe)]
    ['model.head.votes']
    """
    head = recipe.model.head
    if is_generative(head) and head.get("votes", 1) > 1 and not head.get("thinking", True):
        message = f"{head['votes']} votes need thinking: true; without reasoning, one token gives the exact probability"
        yield "model.head.votes", message


def is_generative(head: Node) -> bool:
    """Whether the source of a head defines the method and sets the attribute that every generative head has.

    A head that inherits them is recognised when it is built.

    >>> is_generative({"_target_": "critic"}), is_generative({"_target_": "linear"})
    (True, False)
    """
    target = str(head.get("_target_", ""))
    try:
        check_trusted(target, "heads")
        definition = locate(target, "heads").definition
    except TargetError:
        # The check of the node reports this fault; here it would be a second one.
        return False
    if not isinstance(definition, ast.ClassDef):
        return False
    return _defines_method(definition.body) and _sets_attribute(definition.body)


def _defines_method(body: Sequence[ast.stmt]) -> bool:
    return any(isinstance(statement, ast.FunctionDef) and statement.name == GENERATIVE_METHOD for statement in body)


def _sets_attribute(body: Sequence[ast.stmt]) -> bool:
    """Whether a statement assigns the attribute, in the class or through `self` in one of its methods."""
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AnnAssign):
                targets = [node.target]
            else:
                continue
            if any(_assigned_name(target) == GENERATIVE_ATTRIBUTE for target in targets):
                return True
    return False


def _assigned_name(target: ast.expr) -> str | None:
    if isinstance(target, ast.Attribute):
        return target.attr
    return target.id if isinstance(target, ast.Name) else None
