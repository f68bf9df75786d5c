"""The YAML files: where they are, and what is written in one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from basereward.errors import RecipeError, unknown
from basereward.io.limits import check_regular_file, read_text

SUFFIXES = (".yaml", ".yml")
YAML_LIMIT = 4 * 2**20
"""Bytes of a YAML file."""
YAML_DEPTH = 50
"""Levels of mappings and lists in a YAML file or an override."""
YAML_VALUES = 10_000
"""Keys, values and items in a YAML file or an override; also OmegaConf's limit."""


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
    text = read_text(file, limit=YAML_LIMIT, error=RecipeError)
    try:
        content = _load(text)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(f"{file}{line}: not valid YAML: {error.problem}") from error
    except (ValueError, OmegaConfBaseException) as error:
        raise RecipeError(f"{file}: {_first_line(error)}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{file}: cannot be read: {_first_line(error)}") from error
    return _mapping(content, origin=str(file))


def parse_yaml(text: str, *, origin: str) -> dict[str, Any]:
    """The mapping that a YAML text holds. Raises as `read_yaml`."""
    try:
        content = _load(text)
    except (ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise RecipeError(f"{origin}: not valid YAML: {_first_line(error)}") from error
    return _mapping(content, origin=origin)


def _load(text: str) -> Any:
    """The content of a YAML text, interpolations unresolved.

    Raises:
        ValueError: it is nested too deeply.
    """
    _check_bounds(text)
    return OmegaConf.to_container(OmegaConf.create(text))


def _check_bounds(text: str) -> None:
    """Checks size and nesting of a YAML text by its events, which come one after another.

    To build the nested values is recursive, in C too: ten thousand brackets end the process with a segmentation fault.

    Raises:
        ValueError: it has more than `YAML_DEPTH` levels, or more than `YAML_VALUES` values.
    """
    depth = values = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > YAML_DEPTH:
            raise ValueError(f"nested deeper than {YAML_DEPTH} levels")
        values += isinstance(event, yaml.NodeEvent)
        if values > YAML_VALUES:
            raise ValueError(f"more than {YAML_VALUES:,} values")


def parse_value(text: str) -> Any:
    """The value of an override `key=value`, read as YAML.

    Raises:
        ValueError: it is not YAML.

    >>> parse_value("1e-5"), parse_value("[vision, merger]"), parse_value("null")
    (1e-05, ['vision', 'merger'], None)
    """
    try:
        _check_bounds(text)
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"'{shortened(text)}' is not valid YAML: {_first_line(error)}") from error
    assert isinstance(value, dict)
    if value["value"] is None and text.strip() not in ("", "null", "Null", "NULL", "~"):
        raise ValueError(f"'{shortened(text)}' is a comment in YAML; put it in quotes")
    return value["value"]


def head_comment(file: Path) -> str:
    """A YAML file's summary: its first line, which is a comment, without the mark; empty when it is something else."""
    check_regular_file(file, error=RecipeError)
    with file.open(encoding="utf-8", errors="replace") as lines:
        first = lines.readline(10_000)
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
    return shortened(str(error).split("\n", maxsplit=1)[0], limit=300)


def shortened(value: object, *, limit: int = 120) -> str:
    """A value for a message, cut in the middle when its text is long.

    >>> shortened("a" * 30, limit=20)
    'aaaaaaaa....aaaaaaaa'
    """
    text = value if isinstance(value, str) else repr(value)
    half = limit // 2 - 2
    return text if len(text) <= limit else f"{text[:half]}....{text[-half:]}"
