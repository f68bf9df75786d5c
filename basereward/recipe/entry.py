"""Lists the names that can be used in recipes and on the command line, each with a one-line summary."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from basereward.errors import RecipeError
from basereward.recipe.checks.targets import short_names
from basereward.recipe.yaml.files import experiments_folder, head_comment, yaml_names

Named: TypeAlias = Literal[
    "experiments",
    "profiles",
    "sources",
    "benchmarks",
    "heads",
    "losses",
    "objectives",
    "adapters",
    "tiny_models",
    "launchers",
]
NAMED: tuple[Named, ...] = get_args(Named)
CodeKind: TypeAlias = Literal["heads", "losses", "objectives", "adapters", "tiny_models", "launchers"]
CODE_KINDS: tuple[CodeKind, ...] = get_args(CodeKind)
"""Kinds whose names are those of Python files; the others are YAML files in the folder of experiments."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A name and its summary.

    >>> Entry("mlp", "Several linear layers.").name
    'mlp'
    """

    name: str
    summary: str


def names(kind: Named) -> list[Entry]:
    """Lists everything of one kind, sorted by name.

    The summary of a YAML file is the comment in its first line; that of a class or function is the first line of its
    docstring.

    Raises:
        RecipeError: the folder of experiments does not exist.

    >>> [entry.name for entry in names("losses")][:1]
    ['bradley_terry']
    """
    if kind in CODE_KINDS:
        return [Entry(name, _summary(node)) for name, node in short_names(kind).items()]
    # An empty list would say that nothing is shipped, while the command only ran in another folder.
    if not experiments_folder().is_dir():
        raise RecipeError(
            f"{kind} are looked up in '{experiments_folder().absolute()}', and there is no such folder; change to the "
            "folder that contains it, or set BASEREWARD_EXPERIMENTS to the folder of experiments"
        )
    if kind == "experiments":
        # Mixtures are experiments too; their folder keeps the list of the others short.
        mixtures = _yaml_entries(experiments_folder() / "mixtures")
        in_folder = [Entry(f"mixtures/{mixture.name}", mixture.summary) for mixture in mixtures]
        return [*_yaml_entries(experiments_folder()), *in_folder]
    return _yaml_entries(experiments_folder() / kind)


def _yaml_entries(folder: Path) -> list[Entry]:
    return [Entry(name, head_comment(folder / f"{name}.yaml")) for name in yaml_names(folder)]


def _summary(node: ast.ClassDef | ast.FunctionDef) -> str:
    return (ast.get_docstring(node) or "").split("\n", maxsplit=1)[0]
