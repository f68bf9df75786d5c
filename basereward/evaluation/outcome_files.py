"""Read outcomes that other programs computed: JSON Lines with one line per row of the benchmark, or one JSON array.

{"row": 0, "id": "...", "scores": [1.5, -0.2]}      one score per stored response, in their order
{"row": 0, "id": "...", "correct": 1}               or 0
{"row": 0, "id": "...", "verdicts": [0, null, 1]}   per vote the index of the chosen stored response, or null

A verdict may be "tie" where the labels of the benchmark include ties.

A line may have `item`, the fingerprint of the item as in `scores.jsonl` of an evaluation. It must then be equal to the
fingerprint of the benchmark's item.
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
TIE = "tie"
# `abs(value) <= LARGEST` is false for an infinite value and for NaN.
LARGEST = sys.float_info.max
MISSING_ROW = "`row` is missing"
NEEDED = (
    "A line needs `row`, the number of the row in the benchmark from 0, `id`, and one of scores, correct and verdicts. "
    "The output of `basereward score` has no `row`: evaluate its model in place of --scores, or add `row` to each line."
)
# Faults or missing rows that one error message lists.
MAX_LISTED = 8


def read_outcomes(path: str | Path, items: Sequence[Item], *, allow_partial: bool = False) -> dict[int, Outcome]:
    """Read the outcome of every row.

    Args:
        path: the file.
        items: of the benchmark, by row.
        allow_partial: accept a file without some of the rows. They are then not counted at all.

    Returns:
        The outcomes by row.

    Raises:
        DataError: the file does not exist; a line is malformed, repeated, of no row of the benchmark, or has a number
            that is not finite; lines differ in kind; or rows are missing. The message lists the faults.

    >>> import tempfile
    >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a")
    >>> file = Path(tempfile.mkdtemp()) / "scores.jsonl"
    >>> _ = file.write_text('{"row": 0, "id": "a", "scores": [1.5, -0.2]}')
    >>> read_outcomes(file, [item])[0].scores
    (1.5, -0.2)
    """
    outcomes: dict[int, Outcome] = {}
    faults: list[str] = []
    for position, decode in _entries(Path(path)):
        try:
            row, outcome = _parse(decode(), items)
            if row in outcomes:
                raise DataError(f"row {row} ('{items[row].id}') comes twice")
            outcomes[row] = outcome
        except DataError as error:
            faults.append(f"{position}: {error}")
    # A malformed line is a missing row as well; one message about it is enough.
    if not faults:
        faults += _file_faults(outcomes, items, allow_partial=allow_partial)
    if faults:
        listed = faults[:MAX_LISTED]
        if len(faults) > MAX_LISTED:
            listed.append(f"... and {len(faults) - MAX_LISTED} more")
        if any(fault.endswith(MISSING_ROW) for fault in faults):
            listed.append(NEEDED)
        raise DataError("\n  ".join([f"{path} is refused as a whole:", *listed]))
    return outcomes


def _entries(path: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """The position of each entry, for messages, and a function that decodes it."""
    array = one_json_value(path, name=path)
    table: Table = JsonLines(path) if array is None else array
    unit = "line" if array is None else "entry"
    for _, number, raw in table.scan():
        yield f"{unit} {number}", partial(table.decode, raw)


def _file_faults(outcomes: Mapping[int, Outcome], items: Sequence[Item], *, allow_partial: bool) -> list[str]:
    """Faults of the file as a whole."""
    kinds = sorted({outcome.kind for outcome in outcomes.values()})
    if len(kinds) > 1:
        return [f"lines of several kinds, {' and '.join(kinds)}; one file holds one of {', '.join(KINDS)}"]
    if not outcomes:
        return ["the file has no lines"]
    missing = [f"row {row} ('{item.id}')" for row, item in enumerate(items) if row not in outcomes]
    if missing and not allow_partial:
        listed = ", ".join(missing[:MAX_LISTED])
        if len(missing) > MAX_LISTED:
            listed += f" and {len(missing) - MAX_LISTED} more"
        return [f"{len(missing)} of {len(items)} rows are missing: {listed}. --allow-partial counts without them"]
    return []


def _parse(entry: object, items: Sequence[Item]) -> tuple[int, Outcome]:
    """The row of an entry, and its outcome.

    Raises:
        DataError: the entry is malformed, or belongs to no row of the benchmark.
    """
    if not isinstance(entry, dict):
        raise DataError(f'{shown(entry)}; an object such as {{"row": 0, "id": "...", "scores": [...]}} is needed')
    item = _item_of(entry, items)
    kinds = [kind for kind in KINDS if kind in entry]
    if len(kinds) != 1:
        given = " and ".join(kinds) or "none"
        raise DataError(f"row {item.row} ('{item.id}') has {given} of {', '.join(KINDS)}; give one")
    return item.row, PARSERS[kinds[0]](entry[kinds[0]], item)


def _item_of(entry: Mapping[str, Any], items: Sequence[Item]) -> Item:
    """The item that an entry is about, by its row; its id and fingerprint must agree.

    Raises:
        DataError: there is no such row, or the entry is about another version of the item.
    """
    row = entry.get("row")
    if "row" not in entry:
        raise DataError(MISSING_ROW)
    # `True` is an `int` in Python.
    if not isinstance(row, int) or isinstance(row, bool) or not 0 <= row < len(items):
        raise DataError(f"`row` is {shown(row)}; the benchmark has rows 0 to {len(items) - 1}")
    item = items[row]
    if str(entry.get("id")) != item.id:
        raise DataError(f"row {row} has the id {shown(entry.get('id'))}; in the benchmark it is '{item.id}'")
    if entry.get("item") not in (None, item_fingerprint(item)):
        raise DataError(f"row {row} ('{item.id}') was scored with another prompt, other answers or other labels")
    return item


def _scores(value: Any, item: Item) -> Outcome:
    if not isinstance(value, list) or len(value) != len(item.responses):
        raise _fault(item, "scores", value, f"a list of {len(item.responses)} numbers, one for each response,")
    if not all(_is_finite_number(score) for score in value):
        raise _fault(item, "scores", value, "a list of finite numbers")
    return Outcome(scores=tuple(float(score) for score in value))


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _correct(value: Any, item: Item) -> Outcome:
    if value not in (0, 1):
        raise _fault(item, "correct", value, "0 or 1")
    return Outcome(correct=bool(value))


def _verdicts(value: Any, item: Item) -> Outcome:
    if not isinstance(value, list) or not value:
        raise _fault(item, "verdicts", value, "a list with at least one vote")
    if not all(_is_vote(vote, item) for vote in value):
        others = f', "{TIE}" or null' if item.ties else " or null"
        raise _fault(item, "verdicts", value, f"a list of indices 0 to {len(item.responses) - 1}{others}")
    # The number of responses stands for a tie, as `Outcome.votes` says.
    return Outcome(votes=tuple(len(item.responses) if vote == TIE else vote for vote in value))


def _is_vote(value: Any, item: Item) -> bool:
    if value is None or (value == TIE and item.ties):
        return True
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(item.responses)


PARSERS = {"scores": _scores, "correct": _correct, "verdicts": _verdicts}


def _fault(item: Item, name: str, value: Any, needed: str) -> DataError:
    return DataError(f"row {item.row} ('{item.id}'): `{name}` is {shown(value)}; {needed} is needed")
