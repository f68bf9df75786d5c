"""Test outcome files of other programs: they are read completely or refused with the faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main
from basereward.errors import DataError
from basereward.evaluation.benchmark import Benchmark, load_benchmark
from basereward.evaluation.outcome_files import read_outcomes
from tests.helpers.benchmark_rows import small_benchmark, write_outcomes

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def benchmark(tmp_path: Path) -> Benchmark:
    """Return twelve rows in the format of VL-RewardBench."""
    return load_benchmark("vl_rewardbench", overrides=[f"data={small_benchmark(tmp_path / 'data')}"])


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"scores": [[1.5, -2]] * 12}, "scores"),
        ({"correct": [1, 0] * 6}, "correct"),
        ({"verdicts": [[0, None, 1]] * 12}, "verdicts"),
    ],
)
def test_every_kind_of_outcome_is_read(
    columns: dict[str, Any], kind: str, benchmark: Benchmark, tmp_path: Path
) -> None:
    """Scores, verdicts and 0/1 values are read, one line a row, in any order of the lines."""
    file = write_outcomes(tmp_path / "out.jsonl", benchmark.items, **columns)
    file.write_text("\n".join(file.read_text().splitlines()[::-1]))
    outcomes = read_outcomes(file, benchmark.items)
    assert sorted(outcomes) == list(range(12))
    assert {outcome.kind for outcome in outcomes.values()} == {kind}


@pytest.mark.parametrize("indent", [None, 2])
def test_outcomes_in_one_array_are_read(indent: int | None, benchmark: Benchmark, tmp_path: Path) -> None:
    """The array may have several lines, and a fault of an entry is reported once."""
    file = write_outcomes(tmp_path / "out.jsonl", benchmark.items, scores=[[1.5, -2]] * 12)
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text(json.dumps(entries, indent=indent))
    assert sorted(read_outcomes(file, benchmark.items)) == list(range(12))
    entries[4]["scores"] = [1.0]
    file.write_text(json.dumps(entries, indent=indent))
    with pytest.raises(DataError, match="entry 4: row 4") as caught:
        read_outcomes(file, benchmark.items)
    assert len(str(caught.value).splitlines()) == 2


GOOD = {"row": 3, "id": "wildvision-3", "scores": [0.5, 0.25]}
REFUSED: dict[str, tuple[str, str]] = {
    "unknown row": (json.dumps({**GOOD, "row": 12}), "rows 0 to 11"),
    "row of a wrong type": (json.dumps({**GOOD, "row": "3"}), "rows 0 to 11"),
    "row is null": (json.dumps({**GOOD, "row": None}), "rows 0 to 11"),
    "no row": (json.dumps({"id": "wildvision-3", "scores": [0.5, 0.25]}), "line 4: `row` is missing"),
    "another id": (json.dumps({**GOOD, "id": "wildvision-4"}), "it is 'wildvision-3'"),
    "no outcome": (json.dumps({"row": 3, "id": "wildvision-3"}), "none of scores, correct, verdicts"),
    "two outcomes": (json.dumps({**GOOD, "correct": 1}), "scores and correct"),
    "a score too few": (json.dumps({**GOOD, "scores": [1.0]}), "a list of 2 numbers"),
    "not finite": ('{"row": 3, "id": "wildvision-3", "scores": [1.0, NaN]}', "finite numbers"),
    "infinite": ('{"row": 3, "id": "wildvision-3", "scores": [1.0, 1e999]}', "finite numbers"),
    "a truth for a score": (json.dumps({**GOOD, "scores": [True, 0.0]}), "finite numbers"),
    "correct is 2": ('{"row": 3, "id": "wildvision-3", "correct": 2}', "0 or 1"),
    "a vote for nobody": ('{"row": 3, "id": "wildvision-3", "verdicts": [2]}', "indices 0 to 1 or null"),
    "no votes": ('{"row": 3, "id": "wildvision-3", "verdicts": []}', "at least one vote"),
    "not JSON": ("{", "not JSON"),
    "a list": ("[3]", "an object such as"),
    "another kind": ('{"row": 3, "id": "wildvision-3", "correct": 1}', "several kinds"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_invalid_line_is_refused(fault: str, benchmark: Benchmark, tmp_path: Path) -> None:
    """The message has the row and what is allowed, and no outcomes are returned."""
    line, message = REFUSED[fault]
    file = write_outcomes(tmp_path / "out.jsonl", benchmark.items, scores=[[1.0, 0.0]] * 12)
    lines = file.read_text().splitlines()
    lines[3] = line
    file.write_text("\n".join(lines))
    with pytest.raises(DataError, match="refused as a whole") as raised:
        read_outcomes(file, benchmark.items, allow_partial=True)
    assert message in str(raised.value)


def test_output_of_score_is_explained_once(benchmark: Benchmark, tmp_path: Path) -> None:
    """Its lines have an id and scores; the message has the keys that are needed, not once for every line."""
    file = tmp_path / "rows.scores.jsonl"
    lines = [json.dumps({"id": item.id, "scores": [1.0, 0.0]}) for item in benchmark.items]
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="refused as a whole") as raised:
        read_outcomes(file, benchmark.items)
    message = str(raised.value)
    for word in ("`row`", "`id`", "scores, correct and verdicts", "basereward score"):
        assert word in message
    assert message.count("A line needs") == 1


def test_repeated_row_is_refused(benchmark: Benchmark, tmp_path: Path) -> None:
    """This also holds for equal outcomes."""
    file = write_outcomes(tmp_path / "out.jsonl", benchmark.items, scores=[[1.0, 0.0]] * 12)
    file.write_text(file.read_text() + json.dumps(GOOD) + "\n")
    with pytest.raises(DataError, match=r"line 13: row 3 \('wildvision-3'\) comes twice"):
        read_outcomes(file, benchmark.items)


def test_missing_rows_are_named(benchmark: Benchmark, tmp_path: Path) -> None:
    """The other rows are returned only with `allow_partial`."""
    file = write_outcomes(tmp_path / "out.jsonl", benchmark.items[:10], scores=[[1.0, 0.0]] * 10)
    with pytest.raises(
        DataError, match=r"2 of 12 rows are missing: row 10 \('RLAIF-V-10'\), row 11 \('mathverse-11'\)"
    ):
        read_outcomes(file, benchmark.items)
    assert len(read_outcomes(file, benchmark.items, allow_partial=True)) == 10


def test_partial_outcomes_are_marked_in_the_tables(
    benchmark: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every table has 10 of 1,250 in its head, and one line says how the rows differ from the benchmark."""
    monkeypatch.chdir(tmp_path)
    write_outcomes(tmp_path / "theirs.jsonl", benchmark.items[:10], scores=[[1.0, 0.0]] * 10)
    arguments = ["--scores", "theirs.jsonl", "--allow-partial"]
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(EXPERIMENTS))
    assert main(["eval", *arguments, "--benchmark", "vl_rewardbench", "data=data/rows.json"]) == 0
    out = capsys.readouterr().out
    heads = [line for line in out.splitlines() if " of 1250 items)" in line]
    assert len(heads) == out.count(" undecided ") == 7
    assert all("(10 of 1250 items)" in head for head in heads)
    (head_line,) = [line for line in out.splitlines() if line.startswith("PARTIAL")]
    assert "1,250 expected, 12 found" in head_line
    assert "2 of 12 items" in head_line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--benchmark", "vl_rewardbench"], "a model to evaluate, --scores"),
        (["longer", "--benchmark", "vl_rewardbnch"], "did you mean 'vl_rewardbench'"),
        (["longer"], "--benchmark"),
        (["longer", "--benchmark", "vl_rewardbench", "--order", "both", "data=data/rows.json"], "is for a judge"),
        (["first", "--benchmark", "vl_rewardbench", "--order", "sideways"], "unknown order 'sideways'"),
        (["longer", "--benchmark", "vl_rewardbench", "dta=x"], "dta"),
        (["longer", "--benchmark", "vl_rewardbench", "data=nowhere.json"], "nowhere.json"),
        (
            ["--scores", "none.jsonl", "--benchmark", "vl_rewardbench", "data=data/rows.json", "--allow-partial"],
            "none.jsonl",
        ),
    ],
)
def test_invalid_arguments_are_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit code 2, the message names the fault, and nothing is written."""
    small_benchmark(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(EXPERIMENTS))
    assert main(["eval", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "evaluations").exists()
