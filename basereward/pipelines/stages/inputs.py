"""The files and folders that sources and benchmarks of stages read, whose content is a part of a stage's identity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from basereward.data.source_files import source_inputs
from basereward.errors import BaseRewardError
from basereward.evaluation.benchmark import load_benchmark, open_pairs
from basereward.recipe.fragment import assign_overrides, load_source
from basereward.recipe.schema import Node
from basereward.runs.run_folder import runs_root


def source_files(source: str | Node | None) -> list[Path]:
    """The local files and folders that the arguments of a source name; none if it cannot be found.

    Args:
        source: its name, a file of rows, or its arguments; None: there is no source.

    >>> source_files("digits"), source_files({"_target_": "jsonl", "path": "/not/there.jsonl"})
    ([], [])
    """
    if source is None:
        return []
    try:
        name, node = load_source(source) if isinstance(source, str) else ("rows", source)
    except BaseRewardError:
        # The check of the stage reports it.
        return []
    # A file that is given by its name may be there twice.
    found = sorted(set(source_inputs(source if isinstance(source, str) else name, node)))
    return _without_runs(found)


def benchmark_files(benchmarks: Sequence[str], *, overrides: Sequence[str] = (), data: str | None = None) -> list[Path]:
    """The local files and folders that benchmarks read; none if one of them cannot be found.

    Args:
        benchmarks: names or YAML files.
        overrides: of their arguments.
        data: a file of pairs, in place of benchmarks.

    >>> benchmark_files(["vl_rewardbench"])
    []
    """
    try:
        found = _benchmark_inputs(benchmarks, overrides, data)
    except BaseRewardError:
        # The check of the stage reports it.
        return []
    files = [path for path in found if path.is_file()]
    # The folder of the rows is among the inputs, because images may be anywhere in it; so may everything else.
    folders = [path for path in found if path.is_dir() and not any(file.is_relative_to(path) for file in files)]
    return [*files, *_without_runs(folders)]


def _benchmark_inputs(benchmarks: Sequence[str], overrides: Sequence[str], data: str | None) -> list[Path]:
    found: list[Path] = [] if data is None else list(open_pairs(data).inputs)
    changes = assign_overrides(benchmarks, overrides) if benchmarks else {}
    for name in benchmarks:
        found += load_benchmark(name, overrides=changes[name]).inputs
    return found


def _without_runs(paths: Iterable[Path]) -> list[Path]:
    """The paths without folders that hold the runs: their content changes with every stage."""
    return [path for path in paths if not runs_root().resolve().is_relative_to(path.resolve())]
