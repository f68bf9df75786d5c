"""Finds YAML files by name, and reads them with limits on size and nesting."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from basereward.errors import RecipeError, unknown
from basereward.io.formats import rows_kind
from basereward.io.limits import check_regular_file, read_text

SUFFIXES = (".yaml", ".yml")
VARIABLE = "BASEREWARD_EXPERIMENTS"
"""The environment variable that names the user's folder of experiments."""
MODELINE = "yaml-language-server:"
"""A comment that begins so tells editors the schema of a file, and readers nothing."""
YAML_LIMIT = 4 * 2**20
"""Most bytes of a YAML file."""
YAML_DEPTH = 50
"""Most levels of mappings and lists in a YAML file or an override."""
YAML_VALUES = 10_000
"""Most keys, values and items in a YAML file or an override. OmegaConf has the same limit for the nodes of aliases."""


def own_experiments() -> Path:
    """The user's folder of experiments: `$BASEREWARD_EXPERIMENTS`, or `experiments` in the working folder.

    It need not exist: the shipped experiments are found without it.

    >>> own_experiments().name
    'experiments'
    """
    return Path(os.environ.get(VARIABLE) or "experiments")


def shipped_experiments() -> Path:
    """The folder of the experiments that come with the package.

    A wheel has it inside the package. In a checkout it stands beside the package, where people read and edit it.

    >>> (shipped_experiments() / "head_depth.yaml").is_file()
    True
    """
    package = Path(__file__).resolve().parents[2]
    inside, beside = package / "experiments", package.parent / "experiments"
    # Beside an installed package there are other packages, and one of them may have this name.
    in_checkout = not inside.is_dir() and (package.parent / "setup.cfg").is_file()
    return beside if in_checkout else inside


def experiments_folders(*parts: str) -> list[Path]:
    """Where names are looked up: the user's folder, and then that of the package. A name in both is the user's.

    Args:
        parts: of the path of a subfolder, such as `profiles`.

    Raises:
        RecipeError: `$BASEREWARD_EXPERIMENTS` names no folder.

    >>> (experiments_folders("profiles")[-1] / "tiny.yaml").is_file()
    True
    """
    own, shipped = own_experiments(), shipped_experiments()
    if os.environ.get(VARIABLE) and not own.is_dir():
        raise RecipeError(
            f"{VARIABLE} is '{own}', and there is no such folder; set it to a folder of experiments, or unset it to "
            "use `experiments` in the working folder and those of the package"
        )
    folders = [own] if own.is_dir() else []
    if own.resolve() != shipped:
        folders.append(shipped)
    return [folder.joinpath(*parts) for folder in folders]


def yaml_names(folders: Sequence[Path], *, nested: bool = False) -> list[str]:
    """The sorted names of the YAML files in folders; with `nested`, also in their subfolders, as `sources/digits`.

    >>> "tiny" in yaml_names(experiments_folders("profiles"))
    True
    """
    names: set[str] = set()
    for folder in folders:
        files = folder.rglob("*.yaml") if nested else folder.glob("*.yaml")
        names.update(file.relative_to(folder).with_suffix("").as_posix() for file in files)
    return sorted(names)


def yaml_files(folders: Sequence[Path]) -> list[Path]:
    """The YAML files in folders, sorted by name. A file hides those of the same name in later folders.

    >>> [file.name for file in yaml_files(experiments_folders("profiles"))][-1]
    'tiny.yaml'
    """
    files: dict[str, Path] = {}
    for folder in reversed(folders):
        files.update({file.name: file for file in folder.glob("*.yaml")})
    return [files[name] for name in sorted(files)]


def find_file(name_or_path: str, *, kind: str, folders: Sequence[Path]) -> Path:
    """The file for a path or a name.

    Args:
        name_or_path: the path of a YAML file with its suffix, or a name in one of `folders`.
        kind: what the file is, for the message: `experiment`, `profile`, `include` and so on.
        folders: where names are looked up; the first one that has the name is taken.

    Raises:
        RecipeError: there is no such file; the message has the most similar name.

    >>> find_file("tinny", kind="profile", folders=experiments_folders("profiles"))
    Traceback (most recent call last):
    basereward.errors.RecipeError: unknown profile 'tinny'; did you mean 'tiny'? ...
    """
    if name_or_path.endswith(SUFFIXES):
        if Path(name_or_path).is_file():
            return Path(name_or_path)
        where = " or ".join(map(str, folders))
        raise RecipeError(
            f"there is no file '{name_or_path}' (a {kind} is a path to a YAML file, or a name in {where})"
        )
    for folder in folders:
        file = folder / f"{name_or_path}.yaml"
        if file.is_file():
            return file
    # A plain word is a name, even where a folder happens to have it.
    if (os.sep in name_or_path or Path(name_or_path).suffix) and os.path.exists(name_or_path):
        raise RecipeError(_not_yaml(kind, name_or_path))
    raise RecipeError(unknown(kind, name_or_path, yaml_names(folders, nested=kind == "include")))


def _not_yaml(kind: str, path: str) -> str:
    """The message for a path that exists and is no YAML file."""
    given = "a folder" if os.path.isdir(path) else "no YAML file"
    message = f"the {kind} '{path}' is {given}. Give a name, or the path of a YAML file (.yaml or .yml)"
    if kind == "experiment" and rows_kind(path):
        rows = f"data.sources.mine.include=sources/jsonl data.sources.mine.path={path}"
        message += f"; a file of rows is given by the recipe's keys: basereward train basereward {rows}"
    return message


def read_yaml(file: Path) -> dict[str, Any]:
    """Reads the mapping in a YAML file, without resolving interpolations.

    Raises:
        RecipeError: the file cannot be read, is not YAML, or has no mapping; the message has the file and the line.

    >>> list(read_yaml(shipped_experiments() / "head_depth.yaml"))[:1]
    ['include']
    """
    text = read_text(file, limit=YAML_LIMIT, error=RecipeError)
    try:
        content = _load(text)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        has_tab = any(row[: len(row) - len(row.lstrip())].count("\t") for row in text.splitlines())
        hint = ". A line begins with a tab; YAML is indented with spaces" if has_tab else ""
        raise RecipeError(f"{file}{line}: not valid YAML: {error.problem}{hint}") from error
    except (ValueError, OmegaConfBaseException) as error:
        raise RecipeError(f"{file}: {_first_line(error)}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{file}: cannot be read: {_first_line(error)}") from error
    return _mapping(content, origin=str(file))


def parse_yaml(text: str, *, origin: str) -> dict[str, Any]:
    """Reads the mapping in a YAML text; see `read_yaml`.

    Args:
        text: YAML.
        origin: where the text comes from, for the message.

    >>> parse_yaml("optimizer: {lr: 1e-5}", origin="here")
    {'optimizer': {'lr': 1e-05}}
    """
    try:
        content = _load(text)
    except (ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise RecipeError(f"{origin}: not valid YAML: {_first_line(error)}") from error
    return _mapping(content, origin=origin)


# A command reads one file many times: each page all published tables, a sweep the sources of each cell. OmegaConf takes
# 10 ms for a table. Callers get copies, by `_text_keys`.
@functools.lru_cache(maxsize=256)
def _load(text: str) -> Any:
    """The content of a YAML text, with unresolved interpolations; it must not be changed.

    Raises:
        ValueError: it has too many levels or values.
    """
    _check_bounds(text)
    return OmegaConf.to_container(OmegaConf.create(text))


def _check_bounds(text: str) -> None:
    """Checks the size and the nesting of a YAML text by its stream of events, before any value is built.

    Values are built by recursion, also in C: ten thousand brackets would end the process with a segmentation fault.

    Raises:
        ValueError: it has more than `YAML_DEPTH` levels, or more than `YAML_VALUES` values.
    """
    depth = values = 0
    # libyaml, where it is installed, is ten times as fast as the parser in Python.
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > YAML_DEPTH:
            raise ValueError(f"nested deeper than {YAML_DEPTH} levels")
        values += isinstance(event, yaml.NodeEvent)
        if values > YAML_VALUES:
            raise ValueError(f"more than {YAML_VALUES:,} values")
    # OmegaConf parses references inside references by recursion too.
    depth = 0
    for mark in re.findall(r"\$\{|\}", text):
        depth = depth + 1 if mark == "${" else max(depth - 1, 0)
        if depth > YAML_DEPTH:
            raise ValueError(f"references nested deeper than {YAML_DEPTH} levels")


def parse_value(text: str) -> Any:
    """The value of an override `key=value`, as YAML.

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
        # The text begins with `#`: without this check it would silently mean null.
        raise ValueError(f"'{shortened(text)}' is a comment in YAML; put it in quotes")
    return value["value"]


def head_comment(file: Path) -> str:
    """The summary of a YAML file: the comment in its first line, without the `#`; empty where there is none.

    A line for editors, as `# yaml-language-server: $schema=recipe.json`, may stand before it.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = Path(file.name).write_text("# Learning rates.\\nname: lr\\n")
    ...     head_comment(Path(file.name))
    'Learning rates.'
    """
    check_regular_file(file, error=RecipeError)
    with file.open(encoding="utf-8", errors="replace") as lines:
        # A file without line breaks may be long.
        first = lines.readline(10_000)
        if first.lstrip("# ").startswith(MODELINE):
            first = lines.readline(10_000)
    return first.lstrip("# ").rstrip() if first.startswith("#") else ""


def _mapping(content: Any, *, origin: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise RecipeError(f"{origin}: expected a mapping of keys to values; a list is given")
    mapping: dict[str, Any] = _text_keys(content, origin=origin)
    return mapping


def _text_keys(content: Any, *, origin: str) -> Any:
    """The same content with all keys as text. YAML reads some names as numbers, such as the label `8` of an axis."""
    if isinstance(content, list):
        return [_text_keys(item, origin=origin) for item in content]
    if not isinstance(content, dict):
        return content
    if any(isinstance(key, bool) or not isinstance(key, str | int | float) for key in content):
        raise RecipeError(f"{origin}: a key must be text; YAML reads yes, no, on and off as booleans, so quote them")
    return {str(key): _text_keys(value, origin=origin) for key, value in content.items()}


def _first_line(error: Exception) -> str:
    return shortened(str(error).split("\n", maxsplit=1)[0], limit=300)


def shortened(value: object, *, limit: int = 120) -> str:
    """The text of a value for a message; a long text has its middle cut out.

    >>> shortened("a" * 30, limit=20)
    'aaaaaaaa....aaaaaaaa'
    """
    text = value if isinstance(value, str) else repr(value)
    half = limit // 2 - 2
    return text if len(text) <= limit else f"{text[:half]}....{text[-half:]}"
