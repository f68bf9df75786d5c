"""Read a finished evaluation from its folder: `evaluation.json`, and one line per row in `items.jsonl`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from basereward.errors import DataError, sentence
from basereward.evaluation.benchmark import expected_items
from basereward.io.files import is_special
from basereward.io.limits import kind_of

KINDS = ("scores", "correct", "verdicts")
ORDERS = ("fixed", "random", "both")
INTERVALS = ("wilson", "bootstrap", "wald")
# The page of a report embeds pictures; anything but a data URI could make it fetch an address.
PICTURE = re.compile(r"data:image/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+=*")
# Of a wrong value, and of repeated rows, that a message quotes.
MAX_CHARACTERS, MAX_ROWS = 80, 10


@dataclass(frozen=True, kw_only=True)
class StoredMeasure:
    """One metric. `value`, `low`, `high` and the baselines are shares from 0 to 1, or None if there is none.

    >>> counts = {"numerator": 3.0, "denominator": 4.0, "ties": 0, "undecided": 0}
    >>> StoredMeasure(value=0.75, low=None, high=None, interval=None, baselines={"random": 0.5}, **counts).value
    0.75
    """

    value: float | None
    numerator: float | None
    denominator: float | None
    low: float | None
    high: float | None
    interval: str | None
    """the method of `low` and `high`, one of INTERVALS"""
    ties: int
    undecided: int
    baselines: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class EvaluatedItem:
    """A row of a benchmark, with the outcome of the model."""

    row: int
    id: str
    prompt_id: str
    labels: Mapping[str, Any]
    prompt: str
    responses: tuple[str, ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...]
    scores: tuple[float, ...] | None
    votes: tuple[int | None, ...] | None
    correct: bool | None
    """None: the votes have no majority"""
    tie: bool
    margin: float | None
    picture: str | None
    """the first image as a data URI"""

    @property
    def scored(self) -> bool:
        """Whether there is an outcome."""
        return not (self.scores is None and self.votes is None and self.correct is None)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The evaluation of one model on one version of one benchmark."""

    folder: str
    benchmark: str
    version: str
    name: str
    model: str
    kind: str
    """one of KINDS"""
    order: str | None
    """in which a judge saw the responses, one of ORDERS"""
    votes: int | None
    items: int
    scored: int
    expected: int | None
    """the number of items of the whole benchmark; None: unknown"""
    partial: str | None
    """how the items differ from the whole benchmark, or how many are not scored; None: it is whole"""
    fingerprint: Mapping[str, str | None] | None
    """of the benchmark (see `Annotated.fingerprint`); None in folders of earlier versions"""
    run_id: str | None
    variants: Mapping[str, Mapping[str, StoredMeasure]]
    rows: tuple[EvaluatedItem, ...]
    """in the order of the benchmark"""


def read_evaluation(folder: str | Path) -> Evaluation:
    """Read the evaluation in a folder.

    Args:
        folder: what `basereward eval` wrote for one benchmark.

    Raises:
        DataError: a file is missing or damaged, or the two files do not belong together.

    >>> read_evaluation("/not/there")
    Traceback (most recent call last):
    basereward.errors.DataError: '/not/there' is not the folder of an evaluation: it needs evaluation.json, ...
    """
    folder = Path(folder)
    file = folder / "evaluation.json"
    head = _object(_text(file), file)
    # Earlier versions did not write these three keys.
    if "partial" not in head:
        expected = expected_items(str(head.get("benchmark")))
        head |= {"expected": expected, "fingerprint": None, "partial": _earlier_partial(head, expected)}
    _check(head, _HEAD, file)
    variants = {variant: _measures(metrics, f"{file}: {variant}") for variant, metrics in head["variants"].items()}
    rows = tuple(_items(folder / "items.jsonl"))
    evaluation = _build(Evaluation, {**head, "folder": str(folder), "variants": variants, "rows": rows})
    _check_rows(evaluation)
    return evaluation


def _earlier_partial(head: Mapping[str, Any], expected: int | None) -> str | None:
    """How an evaluation of an earlier version is partial, from its counts and the size of the published benchmark."""
    items, scored = head.get("items"), head.get("scored")
    if items != scored:
        return f"{scored} of {items} items are scored"
    return None if expected in (None, items) else f"items: {expected:,} expected, {items} found"


def _items(file: Path) -> Iterable[EvaluatedItem]:
    # Not `splitlines`: JSON leaves U+2028 inside of a string, and `splitlines` would break the line there.
    for number, line in enumerate(_text(file).split("\n"), start=1):
        if line.strip():
            yield _item(line, f"{file}:{number}")


def _item(line: str, where: str) -> EvaluatedItem:
    values = _object(line, where)
    _check(values, _ITEM, where)
    responses = len(values["responses"])
    for key in ("right", "wrong"):
        if any(place >= responses for place in values[key]):
            _fail(where, f"'{key}' is {values[key]}, and there are {responses} responses")
    if values["scores"] is not None and len(values["scores"]) != responses:
        _fail(where, f"there are {len(values['scores'])} scores of {responses} responses")
    return _build(
        EvaluatedItem, {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    )


def _measures(metrics: Mapping[str, Any], where: str) -> dict[str, StoredMeasure]:
    return {metric: _measure(values, f"{where}, {metric}") for metric, values in metrics.items()}


def _measure(values: Any, where: str) -> StoredMeasure:
    _check(values, _MEASURE, where)
    low, high = values["low"], values["high"]
    if (low is None) != (high is None) or (low is not None and low > high):
        _fail(where, f"'low' is {low} and 'high' is {high}; both are shares, the lower first, or both are null")
    return _build(StoredMeasure, values)


def _check_rows(evaluation: Evaluation) -> None:
    """Check that there is one line per row, and as many as `evaluation.json` states."""
    where, rows = f"{evaluation.folder}/items.jsonl", [item.row for item in evaluation.rows]
    if len(set(rows)) < len(rows):
        repeated = sorted({row for row in rows if rows.count(row) > 1})
        _fail(where, f"these rows are there more than once: {', '.join(map(str, repeated[:MAX_ROWS]))}")
    scored = sum(item.scored for item in evaluation.rows)
    # A partial evaluation has lines for all rows or for the scored rows only, depending on the version that wrote it.
    if scored != evaluation.scored or len(rows) not in (evaluation.items, evaluation.scored):
        stated = f"evaluation.json says that {evaluation.scored} of {evaluation.items} are scored"
        _fail(where, f"{scored} of its {len(rows)} rows are scored, and {stated}")


def _text(file: Path) -> str:
    try:
        # Opening a pipe would wait for a writer.
        if is_special(file):
            raise OSError(f"it is {kind_of(file)}")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        raise DataError(
            f"'{file.parent}' is not the folder of an evaluation: it needs {file.name}, which {sentence(reason)} "
            "Give a folder that `basereward eval` wrote, such as runs/.../vl_rewardbench."
        ) from error


def _object(text: str, where: object) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        _fail(where, f"not JSON: {error}")
    if not isinstance(value, dict):
        _fail(where, "not a JSON object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    # Python's parser accepts NaN and Infinity, which JSON does not have.
    raise ValueError(f"{name} is no number")


FieldRule = tuple[str, Callable[[Any], bool]]
"""What a value must be, in words, and whether a value is that."""
FieldMaker = TypeVar("FieldMaker", StoredMeasure, EvaluatedItem, Evaluation)


def _check(values: Any, rules: Mapping[str, FieldRule], where: object) -> None:
    """Check that all keys are there with allowed values; the message names every fault."""
    faults: list[str] = []
    for key, (allowed, is_allowed) in rules.items():
        if key not in values:
            faults.append(f"'{key}' is missing")
        elif not is_allowed(values[key]):
            faults.append(f"'{key}' is {json.dumps(values[key])[:MAX_CHARACTERS]}; it must be {allowed}")
    if faults:
        _fail(where, "; ".join(faults))


def _fail(where: object, fault: str) -> NoReturn:
    raise DataError(f"{where}: {sentence(fault)} The evaluation is damaged; run `basereward eval` again.")


def _build(kind: type[FieldMaker], values: Mapping[str, Any]) -> FieldMaker:
    # Further keys are ignored: later versions may write them.
    return kind(**{field.name: values[field.name] for field in fields(kind)})


def _is_count(value: Any) -> bool:
    # `True` is an `int` in Python.
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _or_null(rule: FieldRule) -> FieldRule:
    return f"{rule[0]}, or null", lambda value: value is None or rule[1](value)


def _list_of(rule: FieldRule) -> FieldRule:
    return f"a list, each {rule[0]}", lambda value: isinstance(value, list) and all(map(rule[1], value))


def _one_of(names: tuple[str, ...]) -> FieldRule:
    return f"one of {', '.join(names)}", lambda value: value in names


def _is_table(value: Any, depth: int) -> bool:
    """Whether a value is an object of objects, nested so many levels deep."""
    return depth == 0 or (isinstance(value, dict) and all(_is_table(entry, depth - 1) for entry in value.values()))


def _is_picture(value: Any) -> bool:
    return isinstance(value, str) and PICTURE.fullmatch(value) is not None


def _is_fingerprint(value: Any) -> bool:
    return isinstance(value, dict) and all(text is None or isinstance(text, str) for text in value.values())


_TEXT: FieldRule = ("text", lambda value: isinstance(value, str))
_COUNT: FieldRule = ("a whole number of at least 0", _is_count)
_FLAG: FieldRule = ("true or false", lambda value: isinstance(value, bool))
_NUMBER: FieldRule = ("a finite number", _is_number)
# The weights of RewardBench 2's score of ties add up to 1.01, and the last of them is of a tanh, which may be negative.
_SHARE: FieldRule = (
    "a share from 0 to 1, give or take 0.01",
    lambda value: _is_number(value) and -0.01 <= value <= 1.01,
)
_SHARES: FieldRule = (
    "an object of shares from 0 to 1, give or take 0.01, or nulls",
    lambda value: isinstance(value, dict) and all(map(_or_null(_SHARE)[1], value.values())),
)
_HEAD: dict[str, FieldRule] = {
    **dict.fromkeys(("benchmark", "version", "name", "model"), _TEXT),
    "kind": _one_of(KINDS),
    "order": _or_null(_one_of(ORDERS)),
    "votes": _or_null(_COUNT),
    **dict.fromkeys(("items", "scored"), _COUNT),
    "expected": _or_null(_COUNT),
    "partial": _or_null(_TEXT),
    "fingerprint": _or_null(("an object of texts or nulls", _is_fingerprint)),
    "run_id": _or_null(_TEXT),
    "variants": ("an object of variants, each an object of measures", lambda value: _is_table(value, 3)),
}
_MEASURE: dict[str, FieldRule] = {
    **dict.fromkeys(("value", "low", "high"), _or_null(_SHARE)),
    **dict.fromkeys(("numerator", "denominator"), _or_null(_NUMBER)),
    "interval": _or_null(_one_of(INTERVALS)),
    **dict.fromkeys(("ties", "undecided"), _COUNT),
    "baselines": _SHARES,
}
_ITEM: dict[str, FieldRule] = {
    "row": _COUNT,
    **dict.fromkeys(("id", "prompt_id", "prompt"), _TEXT),
    "labels": ("an object", lambda value: _is_table(value, 1)),
    "responses": _list_of(_TEXT),
    **dict.fromkeys(("right", "wrong"), _list_of(_COUNT)),
    "scores": _or_null(_list_of(_NUMBER)),
    "votes": _or_null(_list_of(_or_null(_COUNT))),
    "correct": _or_null(_FLAG),
    "tie": _FLAG,
    "margin": _or_null(_NUMBER),
    "picture": _or_null(("a picture as a data URI", _is_picture)),
}
