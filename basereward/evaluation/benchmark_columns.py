"""The columns that each benchmark reads, as a table for the documentation."""

from __future__ import annotations

from basereward.evaluation.benchmark import load_benchmark
from basereward.evaluation.benchmarks.annotated import Annotated
from basereward.recipe import names


def columns_table() -> str:
    """A Markdown table: benchmarks of one protocol, the columns that every row has, and those that it may have.

    Print it for `docs/benchmarks.md`:
    `python -c "from basereward.evaluation.benchmark_columns import columns_table; print(columns_table())"`.
    """
    rows: dict[tuple[str, str], list[str]] = {}
    for entry in names("benchmarks"):
        benchmark = load_benchmark(entry.name)
        if isinstance(benchmark, Annotated):
            must = ", ".join(f"`{name}`" for name in benchmark.protocol.columns)
            also = getattr(benchmark.protocol, "also", {})
            may = "; ".join(f"`{name}`: {what}" for name, what in also.items())
            rows.setdefault((must, may), []).append(f"`{entry.name}`")
    lines = ["| benchmark | every row has | a row may have |", "|---|---|---|"]
    lines += [f"| {', '.join(benchmarks)} | {must} | {may} |" for (must, may), benchmarks in rows.items()]
    return "\n".join(lines)
