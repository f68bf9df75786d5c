"""Loads one source or benchmark by itself, outside a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from basereward.errors import DataError, RecipeError, sentence
from basereward.io.formats import compression, is_hub_id, is_pattern, known_rows, rows_kind, suffix_advice
from basereward.io.limits import pipe_fault
from basereward.recipe.checks.targets import SINGULAR, TargetKind
from basereward.recipe.fault import Fault, format_faults
from basereward.recipe.nodes import check_node
from basereward.recipe.schema import Node
from basereward.recipe.yaml.files import experiments_folders, find_file
from basereward.recipe.yaml.include import Reader
from basereward.recipe.yaml.interpolation import interpolate
from basereward.recipe.yaml.merge import Layer, merge
from basereward.recipe.yaml.override import read_overrides


def load_source(given: str, *, overrides: Iterable[str] = ()) -> tuple[str, Node]:
    """Loads the node of a source and checks its arguments. No file of rows is opened.

    Args:
        given: a name in `sources` of the folders of experiments, a path to a YAML file of that form, or rows, all of
            which become training rows: a file (see `basereward.io.formats`), a folder, a pattern or a hub id.
        overrides: texts `key=value` for arguments of the source, such as `path=pairs.jsonl`.

    Returns:
        The name of the source, and its node.

    Raises:
        RecipeError: there is no such source, or its arguments are wrong; the message lists every fault.

    >>> name, node = load_source("digits", overrides=["size=10"])
    >>> name, node["size"]
    ('digits', 10)
    """
    if fault := pipe_fault(given):
        raise RecipeError(f"source {fault}")
    if rows_kind(given) or Path(given).is_dir() or is_pattern(given) or (is_hub_id(given) and not _is_named(given)):
        return _load(given, "sources", _rows_file(given), Reader(experiments_folders()), overrides)
    return load_fragment(given, "sources", overrides=overrides)


def load_fragment(
    given: str, kind: Literal["sources", "benchmarks"], *, overrides: Iterable[str] = ()
) -> tuple[str, Node]:
    """Loads the node of a source or benchmark from its YAML file; see `load_source`.

    >>> name, node = load_fragment("digits", "sources")
    >>> node["_target_"]
    'digits'
    """
    reader = Reader(experiments_folders())
    return _load(given, kind, reader.read(_find(given, kind, reader.subfolders(kind))), reader, overrides)


def load_pairs(path: str, *, overrides: Iterable[str] = ()) -> tuple[str, Node]:
    """Makes a benchmark of a user's own file of pairs; see `load_source`.

    Args:
        path: the file, a folder or a pattern of files, or a hub id.
        overrides: texts `key=value` for arguments of the benchmark `pairs`, such as `columns.prompt=question`.

    Returns:
        The name of the benchmark, and its node.

    Raises:
        RecipeError: there is no such file or folder, or an argument is wrong.

    >>> load_pairs("/not/there.jsonl")
    Traceback (most recent call last):
    basereward.errors.RecipeError: there is no file or folder '/not/there.jsonl' of pairs
    """
    if fault := pipe_fault(path):
        raise RecipeError(f"the pairs cannot be read: {fault}")
    if not (Path(path).exists() or is_pattern(path) or is_hub_id(path)):
        raise RecipeError(f"there is no file or folder '{path}' of pairs")
    base = Layer({"_target_": "pairs", "path": path}, {(): path})
    name, node = _load(path, "benchmarks", base, Reader(experiments_folders()), overrides)
    # With a prefix, because a published benchmark may have the name of the file.
    return f"pairs-{name}", node


def _load(given: str, kind: TargetKind, base: Layer, reader: Reader, overrides: Iterable[str]) -> tuple[str, Node]:
    for override in read_overrides(overrides, reader=reader):
        base = merge(base, override.layer)
    base, problems = interpolate(base)
    node: Node = {}
    if reader.complete:
        node, node_problems = check_node(base.values, kind)
        problems += node_problems
    faults = [*reader.faults, *(Fault("*", key, message) for key, message in problems)]
    if faults:
        raise RecipeError("\n  ".join([f"{SINGULAR[kind]} '{given}' cannot be made:", *format_faults(faults)]), faults)
    return source_name(given), node


def source_name(given: str) -> str:
    """The name of a source or benchmark that is given by a path: the name of the file without its suffixes.

    >>> source_name("a/pairs.jsonl.gz"), source_name("sources/digits.yaml"), source_name("data/part-*.jsonl")
    ('pairs', 'digits', 'part')
    """
    path = Path(given)
    if is_pattern(given):
        # The name becomes that of a file.
        return re.sub(r"[^\w.]+", "-", path.stem).strip("-.") or path.parent.name or "rows"
    if path.is_dir():
        return path.resolve().name
    return path.with_suffix("").stem if compression(path) and rows_kind(path) else path.stem


def _find(given: str, kind: TargetKind, folders: Sequence[Path]) -> Path:
    try:
        return find_file(given, kind=SINGULAR[kind], folders=folders)
    except RecipeError as error:
        # Only sources can be given by a file of rows, which the rest of this message explains.
        if kind != "sources":
            raise
        path = Path(given)
        if path.is_file() and path.suffix not in (".yaml", ".yml"):
            advice = suffix_advice(path)
            reason = f"'{given}' is a file of an unknown kind{f': {advice}' if advice else ''}. "
        else:
            reason = ""
        raise RecipeError(
            f"{reason}{sentence(error)} For rows of your own, give the path of a file: {known_rows()}."
        ) from None


def _is_named(given: str) -> bool:
    """Whether a name with a slash is that of a file in a folder of sources."""
    for folder in experiments_folders():
        if any((folder / "sources" / f"{given}{suffix}").is_file() for suffix in ("", ".yaml", ".yml")):
            return True
    return False


def _rows_file(given: str) -> Layer:
    if rows_kind(given) and not is_pattern(given) and not Path(given).exists():
        raise RecipeError(f"there is no file '{given}' (a source is a path to a file with rows, or a name in sources)")
    # All rows are training rows: a person who gives a file of rows wants to see or score all of them.
    return Layer({"_target_": "jsonl", "path": given, "val": 0.0, "test": 0.0}, {(): given})


def assign_overrides(
    names: Sequence[str], overrides: Iterable[str], *, kind: str = "benchmark"
) -> dict[str, list[str]]:
    """Assign overrides to fragments by their prefix, `NAME.key=value`; a single fragment needs none.

    Args:
        names: of the fragments.
        overrides: of all of them.
        kind: of the fragments, for messages.

    Raises:
        DataError: a fragment is named twice, or an override does not name one of several.

    >>> assign_overrides(["rm_bench", "judgebench"], ["rm_bench.data=rows.json"])
    {'rm_bench': ['data=rows.json'], 'judgebench': []}
    """
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"a {kind} is named twice: {', '.join(repeated)}. Give each once")
    assigned: dict[str, list[str]] = {name: [] for name in names}
    for override in overrides:
        named = next((name for name in names if override.startswith(f"{name}.")), None)
        if named is not None:
            assigned[named].append(override.removeprefix(f"{named}."))
        elif len(names) == 1:
            assigned[names[0]].append(override)
        else:
            raise DataError(f"'{override}' does not say which of the {kind}s it changes; write {names[0]}.{override}")
    return assigned
