"""The bench's result as Markdown tables: ratios first."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# Figures by name of every round, for each (workload, trainer).
Results = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
# Values of all rounds, for each (workload, trainer).
_Cells = Mapping[tuple[str, str], Sequence[float]]

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

    A figure is the median over the rounds, with the smallest and the largest when there are several. A speed ratio is
    taken within a round before the median, because a machine may be slower in one round than in another.

    Args:
        results: figures by workload and trainer.
        workloads: rows, in this order.
        trainers: columns, in this order.

    >>> fast = [{"pairs_per_s": 0.9, "peak_gib": 2.0, "torch": "2.13.0"}] * 3
    >>> slow = [{"pairs_per_s": speed, "peak_gib": 4.0, "torch": "2.13.0"} for speed in (0.3, 0.25, 0.36)]
    >>> results = {("text", "tree"): fast, ("text", "plain"): slow}
    >>> print(table(results, workloads=["text"], trainers=["tree", "plain"]))
    | times faster | tree / plain |
    |---|---|
    | text | 3.00 (2.50-3.60) |
    <BLANKLINE>
    | preferences a second | tree | plain |
    |---|---|---|
    | text | 0.900 (0.900-0.900) | 0.300 (0.250-0.360) |
    <BLANKLINE>
    | peak memory of the process, GiB | tree | plain |
    |---|---|---|
    | text | 2.0 (2.0-2.0) | 4.0 (4.0-4.0) |
    <BLANKLINE>
    | torch | tree | plain |
    |---|---|---|
    | text | 2.13.0 | 2.13.0 |
    """
    first = trainers[0]
    timed = _timed_columns(results, trainers)
    speed = _values(results, "pairs_per_s")
    others = {f"{first} / {name}": name for name in timed if name != first}
    torch = {key: str(rounds[0]["torch"]) for key, rounds in results.items()}
    parts = [
        _grid("times faster", workloads, others, _texts(_speed_ratios(speed, first), ".2f")),
        _grid("preferences a second", workloads, timed, _texts(speed, ".3f")),
        _grid("peak memory of the process, GiB", workloads, timed, _texts(_values(results, "peak_gib"), ".1f")),
        _grid("torch", workloads, timed, torch),
    ]
    # Other trainers do not count their work; only ours have a row in this table.
    counted = [key for key, rounds in results.items() if "work_share" in rounds[0]]
    if counted:
        parts.append(_work_table(results, counted))
    return "\n\n".join(parts)


def _timed_columns(results: Results, trainers: Sequence[str]) -> dict[str, str]:
    """Heading to trainer, for the trainers that were timed on some workload."""
    measured = {trainer for _, trainer in results}
    return {name: name for name in trainers if name in measured}


def _values(results: Results, name: str) -> dict[tuple[str, str], list[float]]:
    """One figure of every round."""
    values: dict[tuple[str, str], list[float]] = {}
    for key, rounds in results.items():
        values[key] = [figures[name] for figures in rounds]
    return values


def _speed_ratios(speed: _Cells, first: str) -> dict[tuple[str, str], list[float]]:
    """The speed of the first trainer over that of each other one, on the workloads that both did, in every round."""
    # Speed of the first trainer over that of another, so that a number above 1 means that ours is faster.
    ratios: dict[tuple[str, str], list[float]] = {}
    for (workload, name), values in speed.items():
        if name != first and (workload, first) in speed:
            # Not strict: a trainer that failed in a round has fewer values.
            ratios[workload, name] = [ours / theirs for ours, theirs in zip(speed[workload, first], values)]  # noqa: B905
    return ratios


def _texts(cells: _Cells, form: str) -> dict[tuple[str, str], str]:
    return {key: _with_spread(values, form) for key, values in cells.items()}


def _with_spread(values: Sequence[float], form: str) -> str:
    """The median, with the smallest and the largest value if there are several.

    >>> _with_spread([1.0, 3.0, 2.0], ".1f"), _with_spread([1.0], ".1f")
    ('2.0 (1.0-3.0)', '1.0')
    """
    median = f"{statistics.median(values):{form}}"
    return median if len(values) == 1 else f"{median} ({min(values):{form}}-{max(values):{form}})"


def _work_table(results: Results, counted: Sequence[tuple[str, str]]) -> str:
    """The useful work of the (workload, trainer) pairs whose work is counted."""
    lines = [_line("useful work", [heading for heading, _, _ in WORK]), _rule(len(WORK))]
    for workload, name in counted:
        rounds = results[workload, name]
        cells = [_with_spread([figures[key] for figures in rounds], form) for _, key, form in WORK]
        lines.append(_line(f"{workload}, {name}", cells))
    return "\n".join(lines)


def _grid(head: str, workloads: Sequence[str], columns: Mapping[str, str], cells: Mapping[tuple[str, str], str]) -> str:
    """`columns`: heading to trainer."""
    lines = [_line(head, list(columns)), _rule(len(columns))]
    for workload in workloads:
        lines.append(_line(workload, [cells.get((workload, name), "-") for name in columns.values()]))
    return "\n".join(lines)


def _line(head: str, cells: Sequence[str]) -> str:
    return "| " + " | ".join([head, *cells]) + " |"


def _rule(columns: int) -> str:
    return "|" + "---|" * (columns + 1)
