"""Which groups can be used: every row that cannot is counted under a reason and listed, none is lost in silence.

Reasons: `empty_response`, `image_missing`, `image_unreadable`, `image_too_large`, `too_long`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from basereward.data.group import Group, Lost, Split
from basereward.errors import DataError, TooManyRowsLost

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from basereward.data.sources import Source


class RowLost(DataError):
    """A group cannot be used: `reason` is the name it is counted under, `detail` what a person needs to mend it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)  # both, so that it survives pickling on its way out of a loader's process
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def screen(source: Source, split: Split, *, measure: Callable[[Group], object]) -> tuple[NDArray[np.int64], list[Lost]]:
    """Tries every group of a part.

    Args:
        measure: called with each group; raises `RowLost` when the group cannot be used. Other errors pass through.

    Returns:
        The indices into `source.groups(split)` of the groups that can be used, ascending, and the lost rows: those
        that the source itself lost first, then the others in order.

    Raises:
        DataError: the source is malformed.
    """
    lost = list(source.lost(split))
    kept = []
    for index, group in enumerate(source.groups(split)):
        try:
            measure(group)
        except RowLost as loss:
            lost.append(Lost(source.name, split, group.id, loss.reason, loss.detail))
        else:
            kept.append(index)
    return np.asarray(kept, dtype=np.int64), lost


def summary(lost: Iterable[Lost]) -> dict[str, dict[str, int]]:
    """Counts by source and reason.

    >>> summary([Lost("a", "train", "1", "too_long", ""), Lost("a", "val", "2", "too_long", "")])
    {'a': {'too_long': 2}}
    """
    counts: dict[str, Counter[str]] = {}
    for row in lost:
        counts.setdefault(row.source, Counter())[row.reason] += 1
    return {source: dict(reasons) for source, reasons in counts.items()}


def check_limit(lost: Sequence[Lost], *, rows: Mapping[str, int], max_lost: float, listed_in: str | Path) -> None:
    """Stops a run that would train on too little of its data.

    Args:
        rows: for each source the number of rows that it has, lost ones included.
        max_lost: the largest share of all rows that may be lost, 0 to 1.
        listed_in: the file that lists the lost rows, for the message.

    Raises:
        TooManyRowsLost: the share is larger, or a source lost every row that it has.
    """
    total = sum(rows.values())
    counts = summary(lost)
    emptied = [source for source, number in rows.items() if number and sum(counts.get(source, {}).values()) >= number]
    if not emptied and len(lost) <= max_lost * total:
        return
    lines = [
        f"  {source}: {sum(reasons.values())} of {rows[source]} ("
        + ", ".join(f"{reason} {number}" for reason, number in sorted(reasons.items()))
        + ")"
        for source, reasons in sorted(counts.items())
    ]
    share = f"{len(lost)} of {total} rows ({len(lost) / total:.2%}) cannot be used"
    why = (
        f"every row of {', '.join(emptied)} is lost"
        if emptied
        else f"data.max_lost allows {max_lost:.2%}; mend the rows, or raise data.max_lost"
    )
    raise TooManyRowsLost(f"{share}; {why}. The rows are listed in {listed_in}.\n" + "\n".join(lines))


def write_lost(path: str | Path, lost: Iterable[Lost]) -> None:
    """Writes the rows as JSON Lines with the fields of `Lost`; the file appears whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".part")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in lost)
    os.replace(partial, path)
