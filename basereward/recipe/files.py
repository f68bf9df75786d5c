"""The YAML files: where they are, and what is written in one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from basereward.errors import RecipeError, unknown

SUFFIXES = (".yaml", ".yml")


def experiments_folder() -> Path:
    """`$BASEREWARD_EXPERIMENTS`, or `experiments` in the working folder."""
    return Path(os.environ.get("BASEREWARD_EXPERIMENTS") or "experiments")


def yaml_names(folder: Path, *, nested: bool = False) -> list[str]:
    """Names of the YAML files of a folder, sorted; with `nested`, those of its folders too, as `sources/digits`."""
    files = folder.rglob("*.yaml") if nested else folder.glob("*.yaml")
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in files)


def find_file(given: str, *, kind: str, folder: Path) -> Path:
    """The file that a person means: a path to a YAML file is taken as it is, anything else is a name in `folder`.

    Raises:
        RecipeError: there is no such file; the message names the nearest one that there is.
    """
    if given.endswith(SUFFIXES):
        if Path(given).is_file():
            return Path(given)
        raise RecipeError(f"there is no file '{given}' (a {kind} is a path to a YAML file, or a name in {folder})")
    file = folder / f"{given}.yaml"
    if file.is_file():
        return file
    if not folder.is_dir():
        raise RecipeError(
            f"unknown {kind} '{given}': there is no folder '{folder}' to look in; call this where that folder is, "
            "or set BASEREWARD_EXPERIMENTS to the folder of experiments"
        )
    raise RecipeError(unknown(kind, given, yaml_names(folder, nested=kind == "include")))


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds, interpolations unresolved.

    Raises:
        RecipeError: it cannot be read, is not YAML, or holds no mapping; the message names file and line.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(file))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(f"{file}{line}: not valid YAML: {error.problem}") from error
    except OmegaConfBaseException as error:
        raise RecipeError(f"{file}: {_first_line(error)}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{file}: cannot be read: {_first_line(error)}") from error
    return _mapping(content, origin=str(file))


def parse_yaml(text: str, *, origin: str) -> dict[str, Any]:
    """The mapping that a YAML text holds. Raises as `read_yaml`."""
    try:
        content = OmegaConf.to_container(OmegaConf.create(text))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise RecipeError(f"{origin}: not valid YAML: {_first_line(error)}") from error
    return _mapping(content, origin=origin)


def parse_value(text: str) -> Any:
    """The value of an override `key=value`, read as YAML.

    Raises:
        ValueError: it is not YAML.

    >>> parse_value("1e-5"), parse_value("[vision, merger]"), parse_value("null")
    (1e-05, ['vision', 'merger'], None)
    """
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"'{text}' is not valid YAML: {_first_line(error)}") from error
    assert isinstance(value, dict)
    if value["value"] is None and text.strip() not in ("", "null", "Null", "NULL", "~"):
        raise ValueError(f"'{text}' is a comment in YAML; put it in quotes")
    return value["value"]


def head_comment(file: Path) -> str:
    """A YAML file's summary: its first line, which is a comment, without the mark; empty when it is something else."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        first = lines.readline()
    return first.lstrip("# ").rstrip() if first.startswith("#") else ""


def _mapping(content: Any, *, origin: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise RecipeError(f"{origin}: a recipe is a mapping of keys to values, a list is given")
    mapping: dict[str, Any] = _text_keys(content, origin=origin)
    return mapping


def _text_keys(content: Any, *, origin: str) -> Any:
    """The same content with text for the names that YAML reads as numbers, such as a label `8` of an axis."""
    if isinstance(content, list):
        return [_text_keys(item, origin=origin) for item in content]
    if not isinstance(content, dict):
        return content
    if any(isinstance(key, bool) or not isinstance(key, str | int | float) for key in content):
        raise RecipeError(f"{origin}: a key is text; YAML reads yes, no, on and off as truth values: quote them")
    return {str(key): _text_keys(value, origin=origin) for key, value in content.items()}


def _first_line(error: Exception) -> str:
    return str(error).split("\n", maxsplit=1)[0]
