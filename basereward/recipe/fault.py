"""One thing that is wrong with a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EVERY_CELL = "*"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, at which dotted `key`, in which `cell` of the grid (`*`: in all, or before there are any)."""

    cell: str
    key: str
    message: str

    def __str__(self) -> str:
        return format_faults([self])[0]


def format_faults(faults: Sequence[Fault]) -> list[str]:
    """One line a fault, for people: what several cells share is said once, with the first of them.

    >>> format_faults([Fault("lr=1", "loss", "missing"), Fault("lr=2", "loss", "missing"), Fault("*", "", "no file")])
    ['loss: missing [lr=1 and 1 more]', 'no file']
    """
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
    """The same faults, each said once: one that every cell has becomes one fault of the cell `*`.

    >>> fold([Fault("lr=1", "loss", "missing"), Fault("lr=2", "loss", "missing")], cells=["lr=1", "lr=2"])
    [Fault(cell='*', key='loss', message='missing')]
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for fault in faults:
        groups.setdefault((fault.key, fault.message), []).append(fault.cell)
    folded = []
    for (key, message), where in groups.items():
        everywhere = EVERY_CELL in where or set(where) >= set(cells)
        folded += [Fault(cell, key, message) for cell in ([EVERY_CELL] if everywhere else dict.fromkeys(where))]
    return folded
