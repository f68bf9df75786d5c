"""Which rows can be used: every one that cannot is counted under a reason and listed, none is lost in silence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from basereward.data.schema.group import RejectedRow
from basereward.errors import DataError, TooManyRowsLost
from basereward.io.files import atomic_file

MAX_DETAIL = 1000  # letters of a detail; a row may hold a path or a name of a megabyte
# In the message that stops a run:
SHOWN_REASONS = 20  # reasons of all sources of which rows are shown; the counts are of all
SHOWN_ROWS = 3  # of each of these
SHOWN_LETTERS = 300  # of each row


class RowRejected(DataError):
    """A row cannot be used: `reason` is the name it is counted under, `detail` what a person needs to mend it."""

    def __init__(self, reason: str, detail: str) -> None:
        detail = _cut(detail, MAX_DETAIL)
        super().__init__(reason, detail)  # both, so that it survives pickling on its way out of a loader's process
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


class located:  # a class, since a generator would take thrice the time, and there are three a row
    """Puts the place of a row before the detail of what is raised for it.

    >>> with located("pairs.jsonl:3"):
    ...     raise RowRejected("no_prompt", "there is no prompt")
    Traceback (most recent call last):
    basereward.data.schema.rejections.RowRejected: pairs.jsonl:3: there is no prompt
    """

    __slots__ = ("where",)

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RowRejected):
            raise RowRejected(error.reason, f"{self.where}: {error.detail}") from None


def summary(lost: Iterable[RejectedRow]) -> dict[str, dict[str, int]]:
    """Counts by source and reason.

    >>> summary([RejectedRow("a", "train", "1", "too_long", ""), RejectedRow("a", "val", "2", "too_long", "")])
    {'a': {'too_long': 2}}
    """
    counts: dict[str, Counter[str]] = {}
    for row in lost:
        counts.setdefault(row.source, Counter())[row.reason] += 1
    return {source: dict(reasons) for source, reasons in counts.items()}


def check_limit(
    lost: Sequence[RejectedRow],
    *,
    rows: Mapping[str, int],
    max_lost: float,
    listed_in: str | Path,
    emptied: Collection[str] | None = None,
) -> None:
    """Stops a run that would train on too little of its data.

    Args:
        lost: rows that are no fault (a tie in a set of decided pairs, a duplicate) do not count against the limit.
        rows: for each source the number of rows that it has, lost ones included.
        max_lost: the largest share of all rows that may be lost, 0 to 1.
        listed_in: the file that lists the lost rows, for the message.
        emptied: sources of which enough is known to say that every row is lost; None: all.

    Raises:
        TooManyRowsLost: the share is larger, or a source lost every row that it has; the message has the counts, and
            the first rows of each reason.
    """
    total = sum(rows.values())
    counts = summary(lost)
    emptied = [
        source
        for source, number in rows.items()
        if number and sum(counts.get(source, {}).values()) >= number and (emptied is None or source in emptied)
    ]
    faults = sum(row.fault for row in lost)
    if not emptied and faults <= max_lost * total:
        return
    share = f"{faults} of {total} rows ({faults / total:.2%}) cannot be used"
    why = (
        f"every row of {', '.join(emptied)} is lost"
        if emptied
        else f"data.max_lost allows {max_lost:.2%}; mend the rows, or raise data.max_lost"
    )
    lines = []
    first = _first(lost)
    for source, reasons in sorted(counts.items()):
        listed = ", ".join(f"{reason} {number}" for reason, number in sorted(reasons.items()))
        lines.append(f"  {source}: {sum(reasons.values())} of {rows[source]} ({listed})")
        lines += [f"    {reason}: {said}" for reason in sorted(reasons) for said in first.get((source, reason), ())]
    raise TooManyRowsLost(f"{share}; {why}. The rows are listed in {listed_in}.\n" + "\n".join(lines))


def _first(lost: Iterable[RejectedRow]) -> dict[tuple[str, str], list[str]]:
    """What is wrong with the first rows of each source and reason; of few, that the message stays readable."""
    first: dict[tuple[str, str], list[str]] = {}
    for row in lost:
        if (row.source, row.reason) in first or len(first) < SHOWN_REASONS:
            said = first.setdefault((row.source, row.reason), [])
            if len(said) < SHOWN_ROWS:
                said.append(_cut(_with_id(row), SHOWN_LETTERS))
    return first


def _with_id(row: RejectedRow) -> str:
    """A row's detail, which begins with its id unless it says it anyway."""
    detail = " ".join(row.detail.split())
    return detail if f"{row.id}: " in detail else f"{row.id}: {detail}"


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 20]}... ({len(text)} letters)"


def write_lost(path: str | Path, lost: Iterable[RejectedRow]) -> None:
    """Writes the rows as JSON Lines with the fields of `RejectedRow`; the file appears whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_file(path) as file:
        for row in lost:
            # Half a surrogate pair, as of a file's name that is not UTF-8, is written as JSON's own escape.
            file.write(_line(row).encode("utf-8", errors="backslashreplace"))


def append_lost(path: str | Path, lost: Iterable[RejectedRow]) -> None:
    """Adds rows to a file that `write_lost` may have written; a killed process may leave the last line cut short.

    Raises:
        OSError: the file cannot be written.
    """
    with Path(path).open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write("".join(map(_line, lost)))


def _line(row: RejectedRow) -> str:
    return json.dumps(asdict(row), ensure_ascii=False) + "\n"
