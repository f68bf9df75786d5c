"""The bench's result as Markdown tables: ratios first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# Figures by name, for each (workload, trainer).
Results = Mapping[tuple[str, str], Mapping[str, float]]

# Columns of the last table, for trainers whose work is counted: heading, figure, format.
WORK = (
    ("of the machine's rate", "work_share", ".2f"),
    ("GFLOP a step", "gflop_a_step", ".0f"),
    ("GFLOP/s", "gflop_s", ".0f"),
    ("GFLOP/s of the machine", "product_gflop_s", ".0f"),
)


def table(results: Results, *, workloads: Sequence[str], trainers: Sequence[str]) -> str:
    """Make the tables: speed of the first trainer over the others; preferences per second and peak memory of each; the
    useful work of those whose work is counted. A trainer that was not timed gets no column.

    Args:
        results: figures by workload and trainer.
        workloads: rows, in this order.
        trainers: columns, in this order.

    >>> fast, slow = {"pairs_per_s": 0.9, "peak_gib": 2.0}, {"pairs_per_s": 0.3, "peak_gib": 4.0}
    >>> results = {("text", "tree"): fast, ("text", "plain"): slow}
    >>> print(table(results, workloads=["text"], trainers=["tree", "plain"]))
    | times faster | tree / plain |
    |---|---|
    | text | 3.00 |
    <BLANKLINE>
    | preferences a second | tree | plain |
    |---|---|---|
    | text | 0.900 | 0.300 |
    <BLANKLINE>
    | peak memory of the process, GiB | tree | plain |
    |---|---|---|
    | text | 2.0 | 4.0 |
    """
    first = trainers[0]
    timed = _timed_columns(results, trainers)
    speed = {key: figures["pairs_per_s"] for key, figures in results.items()}
    memory = {key: figures["peak_gib"] for key, figures in results.items()}
    others = {f"{first} / {name}": name for name in timed if name != first}
    parts = [
        _grid("times faster", workloads, others, _speed_ratios(speed, first), ".2f"),
        _grid("preferences a second", workloads, timed, speed, ".3f"),
        _grid("peak memory of the process, GiB", workloads, timed, memory, ".1f"),
    ]
    # Other trainers do not count their work; only ours have a row in this table.
    counted = [key for key in results if "work_share" in results[key]]
    if counted:
        parts.append(_work_table(results, counted))
    return "\n\n".join(parts)


def _timed_columns(results: Results, trainers: Sequence[str]) -> dict[str, str]:
    """Heading to trainer, for the trainers that were timed on some workload."""
    measured = {trainer for _, trainer in results}
    return {name: name for name in trainers if name in measured}


def _speed_ratios(speed: Mapping[tuple[str, str], float], first: str) -> dict[tuple[str, str], float]:
    """The speed of the first trainer over that of each other one, on the workloads that both did."""
    # Speed of the first trainer over that of another, so that a number above 1 means that ours is faster.
    ratios = {}
    for (workload, name), value in speed.items():
        if name != first and (workload, first) in speed:
            ratios[workload, name] = speed[workload, first] / value
    return ratios


def _work_table(results: Results, counted: Sequence[tuple[str, str]]) -> str:
    """The useful work of the (workload, trainer) pairs whose work is counted."""
    lines = [_line("useful work", [heading for heading, _, _ in WORK]), _rule(len(WORK))]
    for workload, name in counted:
        figures = results[workload, name]
        lines.append(_line(f"{workload}, {name}", [f"{figures[key]:{form}}" for _, key, form in WORK]))
    return "\n".join(lines)


def _grid(
    head: str, workloads: Sequence[str], columns: Mapping[str, str], cells: Mapping[tuple[str, str], float], form: str
) -> str:
    """`columns`: heading to trainer."""
    lines = [_line(head, list(columns)), _rule(len(columns))]
    for workload in workloads:
        values = [cells.get((workload, name)) for name in columns.values()]
        lines.append(_line(workload, ["-" if value is None else f"{value:{form}}" for value in values]))
    return "\n".join(lines)


def _line(head: str, cells: Sequence[str]) -> str:
    return "| " + " | ".join([head, *cells]) + " |"


def _rule(columns: int) -> str:
    return "|" + "---|" * (columns + 1)
