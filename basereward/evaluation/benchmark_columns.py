"""Make a table of the columns that each benchmark reads, for the documentation."""

from __future__ import annotations

from basereward.evaluation.benchmark import load_benchmark
from basereward.evaluation.benchmarks.annotated import Annotated
from basereward.recipe import names


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
            optional = "; ".join(f"`{name}`: {purpose}" for name, purpose in protocol.optional_columns.items())
            benchmarks_by_columns.setdefault((required, optional), []).append(f"`{entry.name}`")
    lines = ["| benchmark | every row has | a row may have |", "|---|---|---|"]
    for (required, optional), benchmarks in benchmarks_by_columns.items():
        lines.append(f"| {', '.join(benchmarks)} | {required} | {optional} |")
    return "\n".join(lines)
