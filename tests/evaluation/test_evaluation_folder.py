"""Test that the folder of an evaluation is read completely or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from basereward.errors import DataError
from basereward.evaluation.evaluation_folder import read_evaluation
from tests.helpers.evaluation_folders import item, measure, write_folder


def test_written_evaluation_is_read(tmp_path: Path) -> None:
    """Head, measures and items equal the contents of the files."""
    folder = write_folder(tmp_path / "judge", [True, False, None], order="both", votes=1, kind="verdicts")
    evaluation = read_evaluation(folder)
    assert (evaluation.name, evaluation.order, evaluation.items, evaluation.scored) == ("judge", "both", 3, 3)
    official = evaluation.variants["official"]["overall"]
    assert (official.value, official.numerator, official.baselines["first"]) == (1 / 3, 1, 0.996)
    for row, expected in zip(evaluation.rows, [item(0, True), item(1, False), item(2, None)], strict=True):
        actual = {key: getattr(row, key) for key in expected}
        assert {key: list(value) if isinstance(value, tuple) else value for key, value in actual.items()} == expected


def test_partial_evaluation_is_read(tmp_path: Path) -> None:
    """Rows without a score may be present or absent."""
    unscored = item(1, None, votes=None)
    for rows in ([item(0, True), unscored], [item(0, True)]):
        evaluation = read_evaluation(write_folder(tmp_path / "part", [True], rows=rows, items=2, scored=1))
        assert sum(row.scored for row in evaluation.rows) == 1


@pytest.mark.parametrize(
    ("head", "rows", "message"),
    [
        ({"order": "fixd"}, None, "'order' is \"fixd\"; it must be one of fixed, random, both, or null"),
        ({"scored": 1}, None, "2 of its 2 rows are scored, and evaluation.json says that 1 of 2"),
        ({"variants": {"official": {"overall": measure(1, 1) | {"value": 82.16}}}}, None, "official, overall: 'value'"),
        ({"variants": {"official": {"overall": measure(1, 1) | {"low": None}}}}, None, "both are null"),
        ({"variants": []}, None, "'variants' is"),
        ({}, [item(0, True), item(0, True)], "more than once: 0"),
        ({}, [item(0, True, right=[2])], "'right' is [2], and there are 2 responses"),
        ({}, [item(0, True, scores=[1.0])], "1 scores of 2 responses"),
        ({}, [item(0, True, margin=float("nan"))], "items.jsonl:1: not JSON: NaN is no number"),
        ({}, [item(0, True, picture="https://example.org/a.png")], "'picture' is"),
        ({}, [{"row": 0}], "'id' is missing; 'prompt_id' is missing"),
    ],
)
def test_damaged_folder_is_refused(tmp_path: Path, head: dict[str, Any], rows: list[Any] | None, message: str) -> None:
    """The message names the file, the fault and what is allowed."""
    folder = write_folder(tmp_path / "bad", [True] * len(rows or [0, 1]), rows=rows, **head)
    with pytest.raises(DataError) as caught:
        read_evaluation(folder)
    assert message in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """The message has the file and the command that writes such a folder."""
    folder = write_folder(tmp_path / "bad", [True])
    for name in ("items.jsonl", "evaluation.json"):
        (tmp_path / "bad" / name).unlink()
        with pytest.raises(DataError, match=rf"{name}.*basereward eval"):
            read_evaluation(folder)
    (tmp_path / "bad" / "evaluation.json").write_text(json.dumps([1]), encoding="utf-8")
    with pytest.raises(DataError, match="not a JSON object"):
        read_evaluation(folder)
