"""Outcomes that were made elsewhere: a JSON Lines file with one line a row of the benchmark, or one JSON array of them.

{"row": 0, "id": "...", "scores": [1.5, -0.2]}      a score for every stored answer, in their order
{"row": 0, "id": "...", "correct": 1}               or 0
{"row": 0, "id": "...", "verdicts": [0, null, 1]}   for every vote the index of the chosen stored answer, or null

A line may have `item`, the fingerprint of the item that `scores.jsonl` of an evaluation holds; it must be that of the
benchmark's item then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from basereward.data.readers import Table
from basereward.data.readers.json_array import one_json_value
from basereward.data.readers.json_lines import JsonLines
from basereward.data.schema.messages import shown
from basereward.errors import DataError
from basereward.evaluation.item_identity import item_fingerprint
from basereward.evaluation.items import Item, Outcome

KINDS = ("scores", "correct", "verdicts")
LARGEST = sys.float_info.max  # NaN is not below it either
TOLD = 8  # faults of one sort that a message lists


def read_outcomes(path: str | Path, items: Sequence[Item], *, allow_partial: bool = False) -> dict[int, Outcome]:
    """The outcome of every row.

    Args:
        items: of the benchmark, by row.
        allow_partial: rows may be missing; they are never counted as anything.

    Raises:
        DataError: the file is not there, a line is malformed, doubled, of no row of the benchmark or has a number that
            is not finite, lines differ in kind, or rows are missing. The message lists them; nothing is counted.
    """
    found: dict[int, Outcome] = {}
    faults: list[str] = []
    for where, read in _lines(Path(path)):
        try:
            row, outcome = _read(read(), items)
            if row in found:
                raise DataError(f"row {row} ('{items[row].id}') comes twice")
            found[row] = outcome
        except DataError as error:
            faults.append(f"{where}: {error}")
    if not faults:
        faults += _as_a_whole(found, items, allow_partial=allow_partial)
    if faults:
        listed = [*faults[:TOLD], *([f"... and {len(faults) - TOLD} more"] if len(faults) > TOLD else [])]
        raise DataError("\n  ".join([f"{path} is refused, and nothing of it counted:", *listed]))
    return found


def _lines(path: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """What messages call each entry of a file, and what reads it: JSON Lines, or one array of the same objects."""
    whole = one_json_value(path, name=path)
    table: Table = JsonLines(path) if whole is None else whole
    for _, number, raw in table.scan():
        yield f"{'line' if whole is None else 'entry'} {number}", partial(table.decode, raw)


def _as_a_whole(found: Mapping[int, Outcome], items: Sequence[Item], *, allow_partial: bool) -> list[str]:
    kinds = sorted({outcome.kind for outcome in found.values()})
    if len(kinds) > 1:
        return [f"lines of several kinds, {' and '.join(kinds)}; one file holds one of {', '.join(KINDS)}"]
    missing = [f"row {row} ('{item.id}')" for row, item in enumerate(items) if row not in found]
    if not found:
        return ["the file has no lines"]
    if missing and not allow_partial:
        listed = ", ".join(missing[:TOLD]) + (f" and {len(missing) - TOLD} more" if len(missing) > TOLD else "")
        return [f"{len(missing)} of {len(items)} rows are missing: {listed}. --allow-partial counts without them"]
    return []


def _read(row: object, items: Sequence[Item]) -> tuple[int, Outcome]:
    if not isinstance(row, dict):
        raise DataError(f'{shown(row)}; an object such as {{"row": 0, "id": "...", "scores": [...]}} is needed')
    number = row.get("row")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(items):
        raise DataError(f"`row` is {shown(number)}; the benchmark has rows 0 to {len(items) - 1}")
    item = items[number]
    if str(row.get("id")) != item.id:
        raise DataError(f"row {number} has the id {shown(row.get('id'))}; in the benchmark it is '{item.id}'")
    if row.get("item") not in (None, item_fingerprint(item)):
        raise DataError(f"row {number} ('{item.id}') was scored with another prompt, other answers or other labels")
    given = [kind for kind in KINDS if kind in row]
    if len(given) != 1:
        raise DataError(
            f"row {number} ('{item.id}') has {' and '.join(given) or 'none'} of {', '.join(KINDS)}; give one"
        )
    return number, READERS[given[0]](row[given[0]], item)


def _scores(value: Any, item: Item) -> Outcome:
    if not isinstance(value, list) or len(value) != len(item.responses):
        raise _fault(item, "scores", value, f"a list of {len(item.responses)} numbers, one an answer,")
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= LARGEST for v in value):
        raise _fault(item, "scores", value, "finite numbers")
    return Outcome(scores=tuple(float(v) for v in value))


def _correct(value: Any, item: Item) -> Outcome:
    if value not in (0, 1):
        raise _fault(item, "correct", value, "0 or 1")
    return Outcome(correct=bool(value))


def _verdicts(value: Any, item: Item) -> Outcome:
    allowed = (None, *range(len(item.responses)))
    if not isinstance(value, list) or not value:
        raise _fault(item, "verdicts", value, "a list with at least one vote")
    if any(isinstance(v, bool) or not isinstance(v, int | None) or v not in allowed for v in value):
        raise _fault(item, "verdicts", value, f"indices 0 to {len(item.responses) - 1} or null")
    return Outcome(votes=tuple(value))


READERS = {"scores": _scores, "correct": _correct, "verdicts": _verdicts}


def _fault(item: Item, name: str, value: Any, needed: str) -> DataError:
    return DataError(f"row {item.row} ('{item.id}'): `{name}` is {shown(value)}; {needed} is needed")
