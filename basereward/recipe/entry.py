"""What there is to name in a recipe or on the command line, each with a line that says what it is."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from basereward.errors import RecipeError
from basereward.recipe.checks.targets import short_names
from basereward.recipe.yaml.files import experiments_folder, head_comment, yaml_names

Named: TypeAlias = Literal["experiments", "profiles", "sources", "benchmarks", "heads", "losses"]
NAMED: tuple[Named, ...] = get_args(Named)


@dataclass(frozen=True, slots=True)
class Entry:
    """A name, and its summary."""

    name: str
    summary: str


def names(kind: Named) -> list[Entry]:
    """Everything of one kind, by name.

    The summary of a YAML file is its first line, a comment; that of a head or a loss is the first line of its class's
    docstring.

    Raises:
        RecipeError: there is no folder of experiments to look in.
    """
    if kind in ("heads", "losses"):
        return [Entry(name, _summary(node)) for name, node in short_names(kind).items()]
    if not experiments_folder().is_dir():
        raise RecipeError(
            f"{kind} are looked for in '{experiments_folder().absolute()}', and there is no such folder; call this "
            "where it is, or set BASEREWARD_EXPERIMENTS to the folder of experiments"
        )
    if kind == "experiments":
        mixtures = [Entry(f"mixtures/{each.name}", each.summary) for each in _files(experiments_folder() / "mixtures")]
        return [*_files(experiments_folder()), *mixtures]
    return _files(experiments_folder() / kind)


def _files(folder: Path) -> list[Entry]:
    return [Entry(name, head_comment(folder / f"{name}.yaml")) for name in yaml_names(folder)]


def _summary(node: ast.ClassDef | ast.FunctionDef) -> str:
    return (ast.get_docstring(node) or "").split("\n", maxsplit=1)[0]
