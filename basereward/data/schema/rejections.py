"""Rejected rows: every row that cannot be used is counted under a reason and listed; none is dropped silently."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from basereward.data.schema.group import RejectedRow
from basereward.errors import DataError, TooManyRowsLost
from basereward.io.files import atomic_file

# Characters of a detail. A row may contain a path or a name of a megabyte, which would be repeated in the list.
MAX_DETAIL = 1000
# Limits of the error message that stops a run, to keep it readable. The counts in it are complete. The first 20 reasons
# of all sources have example rows, 3 per reason, of at most 300 characters.
SHOWN_REASONS = 20
SHOWN_ROWS = 3
SHOWN_CHARACTERS = 300


class RowRejected(DataError):
    """A row cannot be used.

    Args:
        reason: a short identifier, by which rejected rows are counted.
        detail: a message with what is needed to correct the row.

    >>> rejection = RowRejected("no_prompt", "the row has no prompt; add the column `prompt`")
    >>> rejection.reason, str(rejection)
    ('no_prompt', 'the row has no prompt; add the column `prompt`')
    """

    def __init__(self, reason: str, detail: str) -> None:
        detail = _cut(detail, MAX_DETAIL)
        # Both arguments, because unpickling in the main process calls the class with `args`.
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


class ColumnRejected(RowRejected):
    """A row cannot be used because of columns that it could do without.

    Who reads the row knows the names of these columns in the data, and adds how to leave them unread.

    Args:
        reason: as for `RowRejected`.
        detail: as for `RowRejected`.
        columns: our names of the columns.

    >>> ColumnRejected("bad_margin", "`margin` is -1", columns=("margin",)).columns
    ('margin',)
    """

    def __init__(self, reason: str, detail: str, *, columns: tuple[str, ...] = ()) -> None:
        super().__init__(reason, detail)
        self.columns = columns


# A class, because a generator-based context manager takes three times as long, and each row enters three of them.
class located:
    """Context manager that prepends the location of a row to the detail of a rejection.

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


def summary(rows: Iterable[RejectedRow]) -> dict[str, dict[str, int]]:
    """Count rejected rows by source and reason.

    >>> summary([RejectedRow("a", "train", "1", "too_long", ""), RejectedRow("a", "val", "2", "too_long", "")])
    {'a': {'too_long': 2}}
    """
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        counts.setdefault(row.source, Counter())[row.reason] += 1
    return {source: dict(reasons) for source, reasons in counts.items()}


def check_limit(
    rejected: Sequence[RejectedRow],
    *,
    rows: Mapping[str, int],
    max_lost: float,
    listed_in: str | Path,
    emptied: Collection[str] | None = None,
) -> None:
    """Stop a run that would train on too little of its data.

    Args:
        rejected: the rejected rows. Rows without a fault (a tie, a duplicate) do not count against the limit.
        rows: the number of rows of each source, rejected ones included.
        max_lost: the largest allowed fraction of rejected rows, 0 to 1.
        listed_in: the file that lists the rejected rows, for the message.
        emptied: the sources that have been read far enough to report that all rows are rejected; None: all sources.

    Raises:
        TooManyRowsLost: the fraction is larger, or all rows of a source are rejected. The message contains the counts
            and the first rows of each reason.

    >>> rejected = [RejectedRow("a", "train", "7", "too_long", "")]
    >>> check_limit(rejected, rows={"a": 100}, max_lost=0.01, listed_in="rejected.jsonl")
    """
    total = sum(rows.values())
    counts = summary(rejected)
    empty_sources = []
    for source, number in rows.items():
        is_judged = emptied is None or source in emptied
        if is_judged and number and sum(counts.get(source, {}).values()) >= number:
            empty_sources.append(source)
    faults = sum(row.fault for row in rejected)
    if not empty_sources and faults <= max_lost * total:
        return
    if empty_sources:
        cause = f"every row of {', '.join(empty_sources)} is rejected"
    else:
        cause = f"data.max_lost allows {max_lost:.2%}; correct the rows, or raise data.max_lost"
    fraction = f"{faults} of {total} rows ({faults / total:.2%}) cannot be used"
    lines = _report(counts, rows=rows, examples=_examples(rejected))
    raise TooManyRowsLost(f"{fraction}; {cause}. The rows are listed in {listed_in}.\n" + "\n".join(lines))


def _report(
    counts: Mapping[str, Mapping[str, int]],
    *,
    rows: Mapping[str, int],
    examples: Mapping[tuple[str, str], Sequence[str]],
) -> list[str]:
    """List the counts of rejected rows by source and reason, with example rows."""
    lines = []
    for source, reasons in sorted(counts.items()):
        listed = ", ".join(f"{reason} {number}" for reason, number in sorted(reasons.items()))
        lines.append(f"  {source}: {sum(reasons.values())} of {rows[source]} ({listed})")
        for reason in sorted(reasons):
            lines += [f"    {reason}: {example}" for example in examples.get((source, reason), ())]
    return lines


def _examples(rows: Iterable[RejectedRow]) -> dict[tuple[str, str], list[str]]:
    """Describe the first rows of each source and reason."""
    examples: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        key = (row.source, row.reason)
        if key in examples or len(examples) < SHOWN_REASONS:
            details = examples.setdefault(key, [])
            if len(details) < SHOWN_ROWS:
                details.append(_cut(_with_id(row), SHOWN_CHARACTERS))
    return examples


def _with_id(row: RejectedRow) -> str:
    """Return the detail of a row, with its id in front unless the detail contains it."""
    detail = " ".join(row.detail.split())
    return detail if f"{row.id}: " in detail else f"{row.id}: {detail}"


def _cut(text: str, limit: int) -> str:
    """Shorten a text to about `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit - 20]}... ({len(text)} letters)"


def write_rejections(path: str | Path, rows: Iterable[RejectedRow]) -> None:
    """Write rejected rows as JSON Lines with the fields of `RejectedRow`, atomically.

    Raises:
        OSError: the file cannot be written.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "rejected.jsonl"
    ...     write_rejections(file, [RejectedRow("a", "train", "7", "too_long", "5,000 tokens")])
    ...     print(file.read_text().strip())
    {"source": "a", "split": "train", "id": "7", "reason": "too_long", "detail": "5,000 tokens", "fault": true}
    """
    with atomic_file(path) as file:
        for row in rows:
            # File names that are not UTF-8 contain lone surrogates, which are written as JSON escapes.
            file.write(_line(row).encode("utf-8", errors="backslashreplace"))


def append_rejections(path: str | Path, rows: Iterable[RejectedRow]) -> None:
    """Append rejected rows to a file of `write_rejections`. If the process is killed, the last line may be incomplete.

    Raises:
        OSError: the file cannot be written.
    """
    with Path(path).open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write("".join(map(_line, rows)))


def _line(row: RejectedRow) -> str:
    return json.dumps(asdict(row), ensure_ascii=False) + "\n"
