"""One source or benchmark by itself, outside of any recipe."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from basereward.errors import RecipeError
from basereward.io.formats import compression, known_rows, rows_kind
from basereward.recipe.checks.targets import SINGULAR, TargetKind
from basereward.recipe.fault import Fault, format_faults
from basereward.recipe.nodes import check_node
from basereward.recipe.schema import Node
from basereward.recipe.yaml.files import experiments_folder, find_file
from basereward.recipe.yaml.include import Reader
from basereward.recipe.yaml.interpolation import interpolate
from basereward.recipe.yaml.merge import Layer, merge
from basereward.recipe.yaml.override import read_overrides


def load_source(given: str, *, overrides: Iterable[str] = ()) -> tuple[str, Node]:
    """A source's name and its node, every argument checked; nothing is made or opened.

    Args:
        given: a name in `sources` of the folder of experiments, a path to a YAML file such as lie there, or a path to a
            file with rows (`io/formats.py` has the kinds), none of which are held out.
        overrides: `key=value`, the keys being arguments of the source, as in `path=pairs.jsonl`.

    Raises:
        RecipeError: there is no such source, or its arguments are wrong; the message lists every fault.
    """
    if rows_kind(given):
        return _load(given, "sources", _rows_file(given), Reader(experiments_folder()), overrides)
    return load_fragment(given, "sources", overrides=overrides)


def load_fragment(
    given: str, kind: Literal["sources", "benchmarks"], *, overrides: Iterable[str] = ()
) -> tuple[str, Node]:
    """A source's or a benchmark's name and its node, by its YAML file; otherwise as `load_source`."""
    folder = experiments_folder()
    reader = Reader(folder)
    return _load(given, kind, reader.read(_find(given, kind, folder / kind)), reader, overrides)


def load_pairs(path: str, *, overrides: Iterable[str] = ()) -> tuple[str, Node]:
    """A name and a node for a person's own file of pairs as a benchmark; otherwise as `load_source`.

    Args:
        path: the file, or a folder of files.
        overrides: `key=value`, the keys being arguments of the benchmark `pairs`, as in `columns.prompt=question`.

    Raises:
        RecipeError: there is no such file or folder, or an argument is wrong.
    """
    if not Path(path).exists():
        raise RecipeError(f"there is no file or folder '{path}' of pairs")
    base = Layer({"_target_": "pairs", "path": path}, {(): path})
    name, node = _load(path, "benchmarks", base, Reader(experiments_folder()), overrides)
    return f"pairs-{name}", node  # apart from the published benchmark of that name


def _load(given: str, kind: TargetKind, base: Layer, reader: Reader, overrides: Iterable[str]) -> tuple[str, Node]:
    for layer in read_overrides(overrides, reader=reader):
        base = merge(base, layer)
    base, problems = interpolate(base)
    node: Node = {}
    if reader.complete:
        node, wrong = check_node(base.values, kind)
        problems += wrong
    faults = [*reader.faults, *(Fault("*", key, message) for key, message in problems)]
    if faults:
        raise RecipeError("\n  ".join([f"{SINGULAR[kind]} '{given}' cannot be made:", *format_faults(faults)]), faults)
    return source_name(given), node


def source_name(given: str) -> str:
    """The name of a source or benchmark that is given by a path: without the ends that tell the kind of file.

    >>> source_name("a/pairs.jsonl.gz"), source_name("sources/digits.yaml")
    ('pairs', 'digits')
    """
    path = Path(given)
    return path.with_suffix("").stem if compression(path) and rows_kind(path) else path.stem


def _find(given: str, kind: TargetKind, folder: Path) -> Path:
    try:
        return find_file(given, kind=SINGULAR[kind], folder=folder)
    except RecipeError as error:
        if kind != "sources":
            raise
        path = Path(given)
        if path.is_dir() and path.suffix == "":
            here = f"'{given}' is a folder; give one file of it, or write a source of its own with path={given}. "
        elif path.is_file() and path.suffix not in (".yaml", ".yml"):
            here = f"'{given}' is a file of an unknown kind. "
        else:
            here = ""
        raise RecipeError(f"{here}{error} Rows of your own are given as a path to a file: {known_rows()}.") from None


def _rows_file(given: str) -> Layer:
    if not Path(given).is_file():
        raise RecipeError(f"there is no file '{given}' (a source is a path to a file with rows, or a name in sources)")
    return Layer({"_target_": "jsonl", "path": given, "val": 0.0, "test": 0.0}, {(): given})
