"""Lists the names that can be used in recipes and on the command line, each with a one-line summary."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from basereward.recipe.checks.targets import short_names
from basereward.recipe.yaml.files import experiments_folders, head_comment, yaml_files

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
    "rewards",
    "stages",
]
NAMED: tuple[Named, ...] = get_args(Named)
CodeKind: TypeAlias = Literal[
    "heads", "losses", "objectives", "adapters", "tiny_models", "launchers", "rewards", "stages"
]
CODE_KINDS: tuple[CodeKind, ...] = get_args(CodeKind)
"""Kinds whose names are those of Python files; the others are YAML files in the folders of experiments."""


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
        RecipeError: `$BASEREWARD_EXPERIMENTS` names no folder.

    >>> [entry.name for entry in names("losses")][:1]
    ['bradley_terry']
    """
    if kind in CODE_KINDS:
        return [Entry(name, _summary(node)) for name, node in short_names(kind).items()]
    if kind == "experiments":
        # Mixtures are experiments too; their folder keeps the list of the others short.
        mixtures = _yaml_entries("mixtures")
        in_folder = [Entry(f"mixtures/{mixture.name}", mixture.summary) for mixture in mixtures]
        return [*_yaml_entries(), *in_folder]
    return _yaml_entries(kind)


def _yaml_entries(*subfolder: str) -> list[Entry]:
    return [Entry(file.stem, head_comment(file)) for file in yaml_files(experiments_folders(*subfolder))]


def _summary(node: ast.ClassDef | ast.FunctionDef) -> str:
    return (ast.get_docstring(node) or "").split("\n", maxsplit=1)[0]
