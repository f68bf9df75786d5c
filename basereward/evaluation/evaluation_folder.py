"""A finished evaluation, as it lies in its folder: `evaluation.json`, and one line a row in `items.jsonl`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from basereward.errors import DataError
from basereward.evaluation.benchmark import expected_items

KINDS = ("scores", "correct", "verdicts")
ORDERS = ("fixed", "random", "both")
INTERVALS = ("wilson", "bootstrap", "wald")
PICTURE = re.compile(r"data:image/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+=*")


@dataclass(frozen=True, kw_only=True)
class StoredMeasure:
    """One metric. `value`, `low`, `high` and the baselines are shares from 0 to 1, or None where there is none."""

    value: float | None
    numerator: float | None
    denominator: float | None
    low: float | None
    high: float | None
    interval: str | None  # how low and high were found: one of INTERVALS
    ties: int
    undecided: int
    baselines: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class EvaluatedItem:
    """A row of a benchmark and what the model made of it. `correct` is None where its votes decide nothing."""

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
    tie: bool
    margin: float | None
    picture: str | None

    @property
    def scored(self) -> bool:
        """Whether the model said anything about the row."""
        return not (self.scores is None and self.votes is None and self.correct is None)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model on one version of one benchmark; `rows` are in the order of the benchmark.

    `expected` is the number of items of the whole benchmark, None where it is not known. `partial` says in what these
    items differ from them, or how many are not scored; None of a whole evaluation. `fingerprint` is that of the
    benchmark (see `Annotated.fingerprint`); None in folders of earlier versions.
    """

    folder: str
    benchmark: str
    version: str
    name: str
    model: str
    kind: str
    order: str | None
    votes: int | None
    items: int
    scored: int
    expected: int | None
    partial: str | None
    fingerprint: Mapping[str, str | None] | None
    run_id: str | None
    variants: Mapping[str, Mapping[str, StoredMeasure]]
    rows: tuple[EvaluatedItem, ...]


def read_evaluation(folder: str | Path) -> Evaluation:
    """The evaluation that lies in a folder.

    Raises:
        DataError: a file is missing or damaged, or the two do not belong together.
    """
    folder = Path(folder)
    file = folder / "evaluation.json"
    head = _object(_text(file), file)
    if "partial" not in head:  # written by an earlier version
        expected = expected_items(str(head.get("benchmark")))
        head |= {"expected": expected, "fingerprint": None, "partial": _earlier_partial(head, expected)}
    _check(head, _HEAD, file)
    variants = {
        variant: {metric: _measure(given, f"{file}: {variant}, {metric}") for metric, given in metrics.items()}
        for variant, metrics in head["variants"].items()
    }
    rows = tuple(_items(folder / "items.jsonl"))
    evaluation = _made(Evaluation, {**head, "folder": str(folder), "variants": variants, "rows": rows})
    _check_rows(evaluation)
    return evaluation


def _earlier_partial(head: Mapping[str, Any], expected: int | None) -> str | None:
    """Whether an evaluation that does not say it is of a part: by its own counts, and by the size of the published
    benchmark of its name."""
    items, scored = head.get("items"), head.get("scored")
    if items != scored:
        return f"{scored} of {items} items are scored"
    return None if expected in (None, items) else f"items: {expected:,} expected, {items} found"


def _items(file: Path) -> Iterable[EvaluatedItem]:
    for number, line in enumerate(_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        given = _object(line, where)
        _check(given, _ITEM, where)
        for key in ("right", "wrong"):
            if any(place >= len(given["responses"]) for place in given[key]):
                _bad(where, f"'{key}' is {given[key]}, and there are {len(given['responses'])} responses")
        if given["scores"] is not None and len(given["scores"]) != len(given["responses"]):
            _bad(where, f"there are {len(given['scores'])} scores of {len(given['responses'])} responses")
        yield _made(
            EvaluatedItem, {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        )


def _measure(given: Any, where: str) -> StoredMeasure:
    _check(given, _MEASURE, where)
    low, high = given["low"], given["high"]
    if (low is None) != (high is None) or (low is not None and low > high):
        _bad(where, f"'low' is {low} and 'high' is {high}; both are shares, the lower first, or both are null")
    return _made(StoredMeasure, given)


def _check_rows(evaluation: Evaluation) -> None:
    """The lines are one a row, and as many as the head says."""
    where, rows = f"{evaluation.folder}/items.jsonl", [item.row for item in evaluation.rows]
    twice = sorted({row for row in rows if rows.count(row) > 1}) if len(set(rows)) < len(rows) else []
    if twice:
        _bad(where, f"these rows are there more than once: {', '.join(map(str, twice[:10]))}")
    scored = sum(item.scored for item in evaluation.rows)
    if scored != evaluation.scored or len(rows) not in (evaluation.items, evaluation.scored):
        told = f"evaluation.json says that {evaluation.scored} of {evaluation.items} are scored"
        _bad(where, f"{scored} of its {len(rows)} rows are scored, and {told}")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = "has no such file" if isinstance(error, FileNotFoundError) else f"has one that cannot be read: {error}"
        raise DataError(
            f"'{file.parent}' is not the folder of an evaluation: {file.name} is needed, and it {what}. "
            "Give a folder that `basereward eval` wrote, such as runs/.../vl_rewardbench."
        ) from error


def _object(text: str, where: object) -> dict[str, Any]:
    try:
        made = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        _bad(where, f"not JSON: {error}")
    if not isinstance(made, dict):
        _bad(where, "not a JSON object")
    return made


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


FieldRule = tuple[str, Callable[[Any], bool]]
FieldMaker = TypeVar("FieldMaker", StoredMeasure, EvaluatedItem, Evaluation)


def _check(given: Mapping[str, Any], rules: Mapping[str, FieldRule], where: object) -> None:
    """All keys are there and hold what they should; every fault is named."""
    faults = [f"'{key}' is missing" for key in rules if key not in given]
    faults += [
        f"'{key}' is {json.dumps(given[key])[:80]}; it must be {words}"
        for key, (words, holds) in rules.items()
        if key in given and not holds(given[key])
    ]
    if faults:
        _bad(where, "; ".join(faults))


def _bad(where: object, fault: str) -> NoReturn:
    raise DataError(f"{where}: {fault}. The evaluation is damaged; run `basereward eval` again.")


def _made(kind: type[FieldMaker], given: Mapping[str, Any]) -> FieldMaker:
    return kind(**{field.name: given[field.name] for field in fields(kind)})


def _is_count(value: Any) -> bool:
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
    return depth == 0 or (isinstance(value, dict) and all(_is_table(each, depth - 1) for each in value.values()))


def _is_picture(value: Any) -> bool:
    return isinstance(value, str) and PICTURE.fullmatch(value) is not None


def _is_fingerprint(value: Any) -> bool:
    return isinstance(value, dict) and all(each is None or isinstance(each, str) for each in value.values())


_TEXT: FieldRule = ("text", lambda value: isinstance(value, str))
_COUNT: FieldRule = ("a whole number of at least 0", _is_count)
_FLAG: FieldRule = ("true or false", lambda value: isinstance(value, bool))
_NUMBER: FieldRule = ("a finite number", _is_number)
# RewardBench 2's score of ties adds weights of 1.01, the last of them to a tanh, which may be negative.
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
