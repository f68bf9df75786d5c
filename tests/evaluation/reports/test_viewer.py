"""Test the command `look`: its page and its output."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas
import pytest

from basereward.cli import main
from basereward.data.sources.jsonl import Jsonl, read_rows
from basereward.inference.load_model import load
from basereward.recipe import load_recipe, make
from basereward.training.fit import train
from tests.helpers.support import SMALL, pair_rows, write_rows

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
    monkeypatch.chdir(tmp_path)


def looked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the command's output and the data of the page."""
    assert main(["look", *arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    return result, embedded(Path(result["out"]))


def embedded(file: Path) -> Any:
    """Return the data that a page contains."""
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', file.read_text(encoding="utf-8"))
    assert match
    return json.loads(match[1])


def test_page_has_the_rows_of_the_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Ids, prompts, responses and preferences are in the file's order, and the page is named after the file."""
    file = write_rows(tmp_path / "mine.jsonl", pair_rows(12, folder=tmp_path))
    result, data = looked(capsys, str(file))
    assert set(result.pop("reading")["columns"]) >= {"id", "prompt", "chosen", "rejected", "images"}
    assert result == {
        "out": "mine.look.html",
        "folder": None,
        "rows": 12,
        "read": 12,
        "total": 12,
        "lost": {},
        "model": None,
    }
    groups = Jsonl("mine", path=str(file), val=0.0, test=0.0).groups("train")
    for row, group in zip(data["rows"], groups, strict=True):
        assert row["id"] == group.id
        assert [turn["role"] for turn in row["turns"]] == [turn.role for turn in group.prompt]
        texts = [part["text"] for turn in row["turns"] for part in turn["parts"] if "text" in part]
        assert texts == [part.text for turn in group.prompt for part in turn.parts if part.text is not None]
        assert tuple(response["text"] for response in row["responses"]) == group.responses
        assert [(preference["winner"], preference["loser"]) for preference in row["pairs"]] == [
            (preference.winner, preference.loser) for preference in group.preferences
        ]
    assert len(data["pictures"]) == 12


def test_split_selects_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """250 of 1,797 digits are in validation and 250 in test. Without --split the rows are taken evenly from all
    splits."""
    _, data = looked(capsys, "digits", "--rows", "18")
    assert data["splits"] == {"train": 1297, "val": 250, "test": 250}
    assert data["facts"]["shown"] == len(data["rows"]) == 18
    assert [row["split"] for row in data["rows"]].count("train") == 13
    _, data = looked(capsys, "digits", "--rows", "3", "--split", "val", "val_size=100")
    assert data["splits"] == {"val": 100}
    source = make({"_target_": "digits", "val_size": 100}, "sources", "digits")
    assert [row["id"] for row in data["rows"]] == [source.groups("val")[i].id for i in (0, 33, 66)]


def test_lost_rows_are_counted_and_listed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The output has the counts, and the page lists the rows with their faults."""
    rows = [*pair_rows(3), {"prompt": "?", "chosen": " ", "rejected": "b"}]
    rows.append({"id": "gone", "prompt": "?", "chosen": "a", "rejected": "b", "images": ["gone.png"]})
    file = write_rows(tmp_path / "mine.jsonl", rows)
    result, data = looked(capsys, str(file))
    assert result["lost"] == {"empty_response": 1, "image_missing": 1}
    assert result["rows"] == 3
    assert {row["id"] for row in data["lost"]} == {"mine.jsonl:4", "gone"}
    assert main(["look", str(file), "--out", "page.html"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "3 rows are shown in page.html; 4 of 5 were read"


def test_no_page_is_written_without_rows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """No picture of the selected rows opens; the message has the number of rows and of tried rows."""
    rows = [{**row, "images": ["gone.png"]} for row in pair_rows(30)]
    file = write_rows(tmp_path / "mine.jsonl", rows)
    assert main(["look", str(file), "--rows", "20"]) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in ("30", "20", "image_missing 20", "gone.png"))
    assert not (tmp_path / "mine.look.html").exists()


def test_many_rows_are_in_files_beside_a_small_page(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Each of 3,000 rows with 6 MB of text is in the page or in one file, in the order of the source, and the page
    has an index of all. A second page replaces the files, but not a folder with a file of the user's."""
    rows = [{"id": f"{i}", "prompt": "?", "chosen": "a" * 1000, "rejected": "b" * 1000} for i in range(3000)]
    file = write_rows(tmp_path / "mine.jsonl", rows)
    for _ in range(2):
        result, data = looked(capsys, str(file), "--rows", "3000")
        assert result["folder"] == "mine.look.files"
        assert Path(result["out"]).stat().st_size < 5_000_000
        seen = [row["id"] for row in data["rows"]]
        assert 0 < len(seen) < 3000
        assert data["files"]["chunks"] == len(list(Path(result["folder"]).glob("*.js")))
        for chunk in range(data["files"]["chunks"]):
            script = Path(result["folder"], f"rows-{chunk}.js").read_text()
            content = re.fullmatch(rf"addRows\({chunk},(.*)\);\n", script)
            assert content
            seen += [row["id"] for row in json.loads(content[1])]
        assert seen == [row["id"] for row in rows]
        assert len(data["index"]["longest"]) == 3000
    (tmp_path / "mine.look.files" / "notes.txt").touch()
    assert main(["look", str(file), "--rows", "3000"]) == 2
    assert "notes.txt" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mine.json", "mine.csv", "mine.parquet", "mine.jsonl.gz"])
def test_look_reads_every_file_format(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The page is named after the file, and it cannot overwrite the file."""
    table = pandas.DataFrame([{"prompt": f"Q{i}?", "chosen": "a", "rejected": "b"} for i in range(3)])
    write = {
        ".json": lambda path: table.to_json(path, orient="records", indent=2),
        ".csv": lambda path: table.to_csv(path, index=False),
        ".parquet": table.to_parquet,
        ".gz": lambda path: table.to_json(path, orient="records", lines=True),
    }
    write[Path(name).suffix](tmp_path / name)
    result, _ = looked(capsys, str(tmp_path / name))
    assert (result["out"], result["rows"]) == ("mine.look.html", 3)
    assert main(["look", str(tmp_path / name), "--out", str(tmp_path / name)]) == 2
    assert "overwrite the input" in capsys.readouterr().err


@pytest.mark.usefixtures("ready_store")
def test_page_has_the_model_scores(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The scores equal those of `score_groups`; a row that is too long for the model has no scores."""
    run = train(load_recipe("basereward", overrides=SMALL))["run_id"]
    rows = [*pair_rows(3, folder=tmp_path), {"id": "long", "prompt": "long " * 500, "chosen": "a", "rejected": "b"}]
    file = write_rows(tmp_path / "mine.jsonl", rows)
    result, data = looked(capsys, str(file), "--model", run)
    assert result["model"] == data["model"] == run
    *scored, unscored = data["rows"]
    expected = list(load(run).score_groups(list(read_rows(file))[:3]))
    for row, scores in zip(scored, expected, strict=True):
        assert [response["score"] for response in row["responses"]] == pytest.approx(scores, abs=1e-5)
        assert row["margin"] == pytest.approx(scores[0] - scores[1], abs=1e-5)
    assert unscored["id"] == "long"
    assert unscored["unscored"].startswith("too_long: ")
    assert unscored["margin"] is None
    assert data["facts"]["accuracy"] == sum(scores[0] > scores[1] for scores in expected) / 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digts"], "unknown source 'digts'; did you mean 'digits'?"),
        (["digits", "--split", "tran"], "unknown part 'tran'; did you mean 'train'?"),
        (["digits", "--rows", "0"], "--rows 0: at least 1 is needed"),
        (["digits", "--rwos", "3"], "unknown option '--rwos'; did you mean '--rows'?"),
        (["digits", "sid=3"], "did you mean 'side'?"),
        (["digits", "--rows", "1", "--out", "no/page.html"], "there is no folder 'no'"),
        (["digits", "--split", "val", "val_size=0"], "no rows in the split val"),
        (["digits", "--rows", "1", "--model", "nothing"], "nothing"),
        ([], "the following arguments are required: SOURCE"),
    ],
)
def test_invalid_arguments_write_no_page(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command exits with status 2 and a message."""
    assert main(["look", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(Path().rglob("*.html"))
