"""The bench's result as two Markdown tables: ratios first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Cells = Mapping[tuple[str, str], float]  # (workload, trainer) to a number


def table(speed: Cells, *, workloads: Sequence[str], trainers: Sequence[str]) -> str:
    """How many times faster the first trainer is than the others, then preferences a second of each.

    A trainer that was never timed gets no column.

    >>> print(table({("pairs", "tree"): 0.9, ("pairs", "plain"): 0.3}, workloads=["pairs"], trainers=["tree", "plain"]))
    | times faster | tree / plain |
    |---|---|
    | pairs | 3.00 |
    <BLANKLINE>
    | preferences a second | tree | plain |
    |---|---|---|
    | pairs | 0.900 | 0.300 |
    """
    first = trainers[0]
    timed = [name for name in trainers if any(name == trainer for _, trainer in speed)]
    others = [name for name in timed if name != first]
    base = {workload: value for (workload, name), value in speed.items() if name == first}
    ratios = {(workload, name): base[workload] / value for (workload, name), value in speed.items() if workload in base}
    lines = [
        _line("times faster", [f"{first} / {name}" for name in others]),
        _rule(len(others)),
        *(_line(workload, _shown(ratios, workload, others, digits=2)) for workload in workloads),
        "",
        _line("preferences a second", timed),
        _rule(len(timed)),
        *(_line(workload, _shown(speed, workload, timed, digits=3)) for workload in workloads),
    ]
    return "\n".join(lines)


def _shown(cells: Cells, workload: str, names: Sequence[str], *, digits: int) -> list[str]:
    values = [cells.get((workload, name)) for name in names]
    return ["-" if value is None else f"{value:.{digits}f}" for value in values]


def _line(head: str, cells: Sequence[str]) -> str:
    return "| " + " | ".join([head, *cells]) + " |"


def _rule(columns: int) -> str:
    return "|" + "---|" * (columns + 1)
