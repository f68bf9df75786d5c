"""Test `basereward eval MODEL --data FILE` on own pairs against counts by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main
from basereward.metrics.interval import wilson
from tests.helpers.chat_servers import serving, words
from tests.helpers.support import picture

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "What?", "chosen": "yes indeed", "rejected": "no", "category": "x"},
    {"id": "b", "prompt": "Who?", "chosen": "no", "rejected": "yes, very", "category": "x"},
    {"id": "c", "prompt": "When?", "chosen": "now", "rejected": "not", "category": "y"},
    {"id": "d", "prompt": [{"role": "user", "content": "Why?"}], "chosen": "as is", "rejected": "no", "category": "y"},
    {"id": "blank", "prompt": "Why?", "chosen": " ", "rejected": "x", "category": "y"},
    {"id": "same", "prompt": "Why?", "chosen": "x", "rejected": "x", "category": "y"},
    {"id": "tie", "prompt": "Why?", "responses": ["x", "y"], "ranking": [0, 0], "category": "y"},
    {"id": "half", "prompt": "Why?", "chosen": "x"},
]
LOST = {"empty_response": 1, "identical_responses": 1, "tie": 1, "missing_column": 1}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with the rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(EXPERIMENTS))
    write(tmp_path / "mine.jsonl", ROWS)
    return tmp_path


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON Lines."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Return the parsed output of `basereward eval --json`."""
    assert main(["eval", *arguments, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_pairs_are_counted_in_total_and_by_category(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The longer answer is right in 2 of 4 pairs with one tie, which is wrong, and in 1 of 2 in each category. Lost
    rows are counted by reason, and the JSON has the format of a benchmark."""
    result = evaluated(capsys, "longer", "--data", "mine.jsonl")
    measures = result["pairs-mine"]["pairs"]
    counts = {
        name: (measure["numerator"], measure["denominator"], measure["ties"]) for name, measure in measures.items()
    }
    assert counts == {"overall": (2, 4, 1), "category: x": (1, 2, 0), "category: y": (1, 2, 1)}
    overall = measures["overall"]
    assert (overall["low"], overall["high"]) == pytest.approx(wilson(2, 4))
    assert overall["baselines"] == {"random": 0.5, "longer": 0.5, "shorter": 0.25, "first": 1.0}
    (evaluation,) = result["evaluations"]
    assert evaluation["lost"] == LOST
    assert (evaluation["items"], evaluation["scored"], evaluation["partial"]) == (4, 4, None)
    head = json.loads((here / evaluation["out"] / "evaluation.json").read_text())
    assert head["lost"] == LOST


def test_text_output_lists_lost_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """Every reason has its number, and stderr names the first row of each."""
    assert main(["eval", "longer", "--data", "mine.jsonl"]) == 0
    captured = capsys.readouterr()
    for reason, number in LOST.items():
        assert f"lost: {number} ({reason})" in captured.out
    assert "mine.jsonl:5" in captured.err
    assert "mine.jsonl:8" in captured.err


def test_pairs_of_a_ranking_are_grouped_by_prompt(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One prompt has three pairs, which guessing gets all right once in six times, and another prompt has one pair."""
    rows = [{"prompt": "Why?", "responses": ["a", "bb", "cccc"], "ranking": [2, 1, 0]}, ROWS[0]]
    write(here / "ranked.jsonl", rows)
    measures = evaluated(capsys, "longer", "--data", "ranked.jsonl")["pairs-ranked"]["pairs"]
    assert (measures["overall"]["numerator"], measures["overall"]["denominator"]) == (4, 4)
    assert measures["overall"]["interval"] == "bootstrap"
    assert (measures["acc_plus"]["numerator"], measures["acc_plus"]["denominator"]) == (2, 2)
    assert measures["acc_plus"]["baselines"]["random"] == pytest.approx((1 / 6 + 1 / 2) / 2)


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ([], {"overall", "category: x", "category: y"}),
        (["by=kind"], {"overall", "kind: 1", "kind: 2"}),
        (["columns.prompt=question"], {"overall", "category: x", "category: y"}),
    ],
)
def test_columns_can_be_chosen(
    overrides: list[str], names: set[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Overrides choose the column to count by and map the column names."""
    rows = [{**row, "question": row["prompt"], "kind": index // 2 + 1} for index, row in enumerate(ROWS[:4])]
    write(here / "mine.jsonl", rows)
    assert set(evaluated(capsys, "longer", "--data", "mine.jsonl", *overrides)["pairs-mine"]["pairs"]) == names


def test_json_array_and_csv_are_read(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A JSON array and a CSV file are read like JSON Lines."""
    rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in ROWS[:3]]
    (here / "array.json").write_text(json.dumps(rows))
    lines = ["prompt,chosen,rejected", *(f'"{row["prompt"]}","{row["chosen"]}","{row["rejected"]}"' for row in rows)]
    (here / "table.csv").write_text("\n".join(lines) + "\n")
    for name in ("array.json", "table.csv"):
        result = evaluated(capsys, "longer", "--data", name, "--name", name.partition(".")[0])
        assert result[f"pairs-{Path(name).stem}"]["pairs"]["overall"]["denominator"] == 3


def test_judge_compares_own_pairs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The judge gets the pictures, and one that takes the longer answer in both orders is right in 2 of 4 pairs."""
    for number in range(4):
        picture(number).save(here / f"{number}.png")
    write(here / "mine.jsonl", [row | {"images": [f"{index}.png"]} for index, row in enumerate(ROWS[:4])])

    def prefer_longer(body: dict[str, Any], number: int) -> str:
        first, second = re.findall(r"Answer \d: (.+)", words(body))
        return "Alike." if len(first) == len(second) else f"<answer>{1 if len(first) > len(second) else 2}</answer>"

    with serving(prefer_longer) as server:
        arguments = ["--judge", "j", "--endpoint", server.url, "--order", "both", "--name", "judge"]
        result = evaluated(capsys, *arguments, "--data", "mine.jsonl")
        assert server.asked[0]["messages"][0]["content"][0]["type"] == "image_url"
    overall = result["pairs-mine"]["pairs"]["overall"]
    assert (overall["numerator"], overall["denominator"], overall["undecided"]) == (2, 4, 1)
    head = json.loads((here / result["evaluations"][0]["out"] / "evaluation.json").read_text())
    assert head["fingerprint"]["pictures"] is not None


MISTAKES: list[tuple[list[str], str]] = [
    (["longer"], "--data"),
    (["longer", "--data", "mine.jsonl", "--benchmark", "vl_rewardbench"], "--benchmark"),
    (["longer", "--data", "none.jsonl"], "none.jsonl"),
    (["longer", "--data", "mine.jsonl", "colums.prompt=x"], "did you mean 'columns'"),
    (["longer", "--data", "mine.jsonl", "by=kind"], "by=kind"),
    (
        ["longer", "--data", "mine.jsonl", "columns.images=pics"],
        "no row has the column pics, which `columns` names. Col",
    ),
    (["longer", "--data", "blank.jsonl"], "response 0 of 2 is blank"),
    (["longer", "--data", "mine.jsonl", "--name", ".."], "--name"),
    (["longer", "--data", "mine.jsonl", "--name", "."], "--name"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_invalid_arguments_are_refused(
    arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, the message names the fault, and nothing is written."""
    write(here / "blank.jsonl", [ROWS[4]])
    assert main(["eval", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (here / "evaluations").exists()


def test_scores_file_is_evaluated_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The `scores.jsonl` of a call gives the same measures for the same file and is refused after an answer changed."""
    first = evaluated(capsys, "longer", "--data", "mine.jsonl")
    scores = f"{first['evaluations'][0]['out']}/scores.jsonl"
    repeated = evaluated(capsys, "--scores", scores, "--name", "again", "--data", "mine.jsonl")
    assert repeated["pairs-mine"] == first["pairs-mine"]
    write(here / "mine.jsonl", [ROWS[0] | {"chosen": "yes, indeed"}, *ROWS[1:]])
    assert main(["eval", "--scores", scores, "--name", "other", "--data", "mine.jsonl"]) == 2
    assert "row 0" in capsys.readouterr().err
