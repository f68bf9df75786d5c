"""Starts an experiment of the user as a copy of one that exists."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from basereward.errors import RecipeError
from basereward.io.limits import read_text
from basereward.io.names import check_name
from basereward.recipe.yaml.files import (
    MODELINE,
    SUFFIXES,
    YAML_LIMIT,
    experiments_folders,
    find_file,
    own_experiments,
    shipped_experiments,
    yaml_names,
)

TEMPLATE = "templates/experiment"
SCHEMA = "schemas/experiment.json"


@dataclass(frozen=True)
class NewExperiment:
    """An experiment that was written.

    Attributes:
        name: by which it is looked up.
        path: the file.
        origin: the file that it is a copy of.

    >>> NewExperiment("mine", Path("experiments/mine.yaml"), Path("basereward.yaml")).name
    'mine'
    """

    name: str
    path: Path
    origin: Path


def new_experiment(name: str, *, origin: str = TEMPLATE) -> NewExperiment:
    """Writes `NAME.yaml` into the user's folder of experiments, and beside it the schema by which editors complete it.

    Args:
        name: of the experiment; no other one may have it.
        origin: the experiment to copy: a name, or a path to a YAML file.

    Raises:
        RecipeError: the name is not allowed or taken, or there is no experiment to copy.

    >>> import os, tempfile
    >>> os.chdir(tempfile.mkdtemp())
    >>> new_experiment("mine", origin="head_depth").path.as_posix()
    'experiments/mine.yaml'
    """
    check_name(name, what="name of the experiment")
    if name.endswith(SUFFIXES):
        raise RecipeError(f"name of the experiment: a name without a suffix is needed, '{name}' given")
    folders = experiments_folders()
    path = own_experiments() / f"{name}.yaml"
    # A second experiment of a name would hide the first, also where others include it.
    if path.exists() or name in yaml_names(folders):
        taken = next((folder for folder in folders if (folder / path.name).exists()), own_experiments())
        raise RecipeError(f"there is an experiment '{name}' already, {taken / path.name}; choose another name")
    source = find_file(origin, kind="experiment", folders=folders)
    text = _renamed(read_text(source, limit=YAML_LIMIT, error=RecipeError), (origin, source.stem), name)
    path.parent.mkdir(parents=True, exist_ok=True)
    # "x" fails where another process has written the file since the check above.
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    _copy_schema(path.parent)
    return NewExperiment(name, path, source)


def _renamed(text: str, old_names: tuple[str, ...], name: str) -> str:
    """The text with the new name in the commands of its comments, and with the schema beside the new file."""
    names = "|".join(re.escape(old) for old in old_names)
    command = re.compile(rf"(basereward (?:train|sweep|check|report|data) )(?:{names})(?![\w/.-])")
    lines = [f"# {MODELINE} $schema={SCHEMA}"]
    for line in text.splitlines():
        if line.lstrip("# ").startswith(MODELINE):
            continue
        lines.append(command.sub(lambda match: match[1] + name, line) if line.lstrip().startswith("#") else line)
    return "\n".join(lines) + "\n"


def _copy_schema(folder: Path) -> None:
    shipped, own = shipped_experiments() / SCHEMA, folder / SCHEMA
    if shipped.is_file() and not own.exists():
        own.parent.mkdir(exist_ok=True)
        shutil.copyfile(shipped, own)
