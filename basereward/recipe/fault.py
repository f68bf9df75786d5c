"""Faults of a recipe, and their texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EVERY_CELL = "*"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a recipe.

    Attributes:
        cell: the name of the cell of the grid; `*` for all cells, or where there are none.
        key: the dotted key; empty where no single key is wrong.
        message: what is wrong.

    >>> str(Fault(EVERY_CELL, "optimizer.lr", "must be above 0; 0 given"))
    'optimizer.lr: must be above 0; 0 given'
    """

    cell: str
    key: str
    message: str

    def __str__(self) -> str:
        return format_faults([self])[0]


def format_faults(faults: Sequence[Fault]) -> list[str]:
    """One line for each different fault; a fault of several cells has the name of the first one.

    >>> format_faults([Fault("lr=1", "loss", "missing"), Fault("lr=2", "loss", "missing"), Fault("*", "", "no file")])
    ['loss: missing [lr=1 and 1 more]', 'no file']
    """
    # A sweep of many cells has most of its faults in all of them; one line for each cell would hide the others.
    cells: dict[str, list[str]] = {}
    for fault in faults:
        line = f"{fault.key}: {fault.message}" if fault.key else fault.message
        cells.setdefault(line, []).append(fault.cell)
    lines = []
    for line, names in cells.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(line if EVERY_CELL in names else f"{line} [{names[0]}{more}]")
    return lines


def fold(faults: Sequence[Fault], *, cells: Sequence[str]) -> list[Fault]:
    """The same faults without repetition: one that every cell has becomes one fault of the cell `*`.

    >>> fold([Fault("lr=1", "loss", "missing"), Fault("lr=2", "loss", "missing")], cells=["lr=1", "lr=2"])
    [Fault(cell='*', key='loss', message='missing')]
    """
    cells_by_fault: dict[tuple[str, str], list[str]] = {}
    for fault in faults:
        cells_by_fault.setdefault((fault.key, fault.message), []).append(fault.cell)
    folded = []
    for (key, message), names in cells_by_fault.items():
        is_everywhere = EVERY_CELL in names or set(names) >= set(cells)
        for name in [EVERY_CELL] if is_everywhere else dict.fromkeys(names):
            folded.append(Fault(name, key, message))
    return folded
