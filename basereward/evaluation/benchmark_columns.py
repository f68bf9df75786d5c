"""Make tables of the columns and files that each benchmark reads, for the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basereward.evaluation.benchmark import load_benchmark
from basereward.evaluation.benchmarks.annotated import Annotated
from basereward.recipe import names
from basereward.recipe.fragment import load_fragment


def columns_table() -> str:
    """Make a Markdown table: benchmarks of one protocol, the columns that every row has, and the optional columns.

    To print it for `docs/benchmarks.md`:
    `python -c "from basereward.evaluation.benchmark_columns import columns_table; print(columns_table())"`.

    >>> columns_table().splitlines()[0]
    '| benchmark | every row has | a row may have |'
    """
    benchmarks_by_columns: dict[tuple[str, str], list[str]] = {}
    for entry in names("benchmarks"):
        benchmark = load_benchmark(entry.name)
        if isinstance(benchmark, Annotated):
            protocol = benchmark.protocol
            required = ", ".join(f"`{name}`" for name in protocol.columns)
            others = {
                name: purpose for name, purpose in protocol.optional_columns.items() if name not in protocol.columns
            }
            optional = "; ".join(f"`{name}`: {purpose}" for name, purpose in others.items())
            benchmarks_by_columns.setdefault((required, optional), []).append(f"`{entry.name}`")
    lines = ["| benchmark | every row has | a row may have |", "|---|---|---|"]
    for (required, optional), benchmarks in benchmarks_by_columns.items():
        lines.append(f"| {', '.join(benchmarks)} | {required} | {optional} |")
    return "\n".join(lines)


def layouts_table() -> str:
    """Make a Markdown table of the benchmarks whose files differ between the hub and another copy.

    >>> layouts_table().splitlines()[0]
    '| benchmark | on the hub | other layouts |'
    """
    lines = ["| benchmark | on the hub | other layouts |", "|---|---|---|"]
    for entry in names("benchmarks"):
        _, node = load_fragment(entry.name, "benchmarks")
        layouts = node.get("layouts") or {}
        others = "; ".join(f"`layout={name}`: {_files(arguments)}" for name, arguments in layouts.items())
        if others:
            lines.append(f"| `{entry.name}` | `{node['path']}`, {_files(node)} | {others} |")
    return "\n".join(lines)


def _files(arguments: Mapping[str, Any]) -> str:
    """The files or configurations that the arguments of a benchmark name."""
    places = [arguments] if not arguments.get("parts") else list(arguments["parts"].values())
    named: list[str] = []
    for place in places:
        named += place.get("files") or ([place["subset"]] if place.get("subset") else [])
    what = "" if any(place.get("files") for place in places) else "configurations " if named else ""
    return what + (", ".join(f"`{name}`" for name in named) or f"split `{arguments['split']}`")
