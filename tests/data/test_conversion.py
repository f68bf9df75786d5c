"""`convert` says what it leaves out, overwrites no input, and keeps what a reader would take for something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from basereward.cli.main import main
from basereward.data.conversion import convert
from basereward.data.sources.jsonl import Jsonl
from basereward.errors import DataError
from tests.helpers.support import picture, write_rows

PAIR = {"chosen": "a", "rejected": "b"}


def groups_of(path: Path) -> Any:
    """Return the groups of a file."""
    return list(Jsonl("s", path=str(path), val=0, test=0).groups("train"))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "What does <image> do?"}]}], **PAIR},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "<image_1>, <img>1.png</img>"}]}], **PAIR},
        {"prompt": "Q", "responses": ["a", "b", "c"], "ranking": [1, 0, 1], "critiques": ["x", "y", "z"]},
        {"prompt": "Q", "responses": ["a", "b", "c"], "preferences": [[2, 0], [1, 0]], "margins": [0.5, None]},
        {"prompt": "Q", "responses": ["a", "b"], "ratings": [0.25, 0.75], "reasonings": [[1, 0, "1 is better"]]},
        {
            "prompt": [
                {"role": "user", "content": "Q"},
                {"role": "assistant", "content": ""},
                {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]},
            ],
            **PAIR,
        },
    ],
)  # fmt: skip
def test_unusual_rows_survive(row: dict[str, Any], tmp_path: Path) -> None:
    """Literal marks, ties, partial margins, targets of generative heads, empty turns and several text parts."""
    write_rows(tmp_path / "in.jsonl", [row])
    convert(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    [before], [after] = groups_of(tmp_path / "in.jsonl"), groups_of(tmp_path / "out.jsonl")
    assert repr(after).replace("out.jsonl", "in.jsonl") == repr(before)


def test_json_in_an_answer_from_memory_stays_text(tmp_path: Path) -> None:
    """An answer that is the JSON of a message is not parsed when the converted file is read."""
    answer = json.dumps({"role": "assistant", "content": "a"})
    row = {"prompt": "Q", "responses": [[{"role": "assistant", "content": answer}], "b"], "ranking": [0, 1]}
    convert([row], tmp_path / "rows.jsonl")
    assert groups_of(tmp_path / "rows.jsonl")[0].responses == (answer, "b")


def test_lost_rows_and_columns_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints them, and writes the rows to a list; paths of images are relative to the output."""
    picture(0).save(tmp_path / "0.png")
    good = {"prompt": "Q", **PAIR, "image": "0.png", "annotator": "x"}
    write_rows(tmp_path / "in.jsonl", [good, {"prompt": "Q", "chosen": "a"}])
    arguments = ["convert", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    assert main([*arguments, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["rows"], facts["lost"], facts["reading"]["not_read"]) == (1, {"missing_column": 1}, ["annotator"])
    assert json.loads(Path(facts["listed_in"]).read_text())["reason"] == "missing_column"
    assert json.loads((tmp_path / "out.jsonl").read_text())["images"] == ["0.png"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "annotator" in printed
    assert "{}x{} pixels".format(*picture(0).size) in printed


@pytest.mark.parametrize("image", [None, {"bytes": None, "path": None}, {"bytes": b""}])
def test_row_without_its_image_is_lost(image: Any, tmp_path: Path) -> None:
    """No row is written that no command could read."""
    row = {"prompt": "Which digit?", "chosen": "7", "rejected": "3"}
    facts = convert([row | {"images": [image]}, row], tmp_path / "rows.jsonl")
    assert (facts["rows"], facts["lost"]) == (1, {"image_unreadable": 1})
    assert "images" not in json.loads((tmp_path / "rows.jsonl").read_text())


def test_no_input_is_overwritten(tmp_path: Path) -> None:
    """Neither the rows nor an image."""
    picture(0).save(tmp_path / "0.png")
    rows = write_rows(tmp_path / "in.jsonl", [{"prompt": "Q", **PAIR, "image": "0.png"}])
    for out in (rows, tmp_path / "0.png"):
        content = out.read_bytes()
        with pytest.raises(DataError, match="would overwrite"):
            convert(rows, out)
        assert out.read_bytes() == content


def test_nothing_is_written_into_the_folder_of_rows(tmp_path: Path) -> None:
    """The next call would read the output as rows."""
    (tmp_path / "rows").mkdir()
    write_rows(tmp_path / "rows" / "in.jsonl", [{"prompt": "Q", **PAIR}])
    with pytest.raises(DataError, match="input folder"):
        convert(tmp_path / "rows", tmp_path / "rows" / "out.jsonl")
    assert convert(tmp_path / "rows", tmp_path / "out.jsonl")["rows"] == 1


def test_file_without_a_usable_row_is_an_error(tmp_path: Path) -> None:
    """Nothing is written."""
    write_rows(tmp_path / "in.jsonl", [{"prompt": "Q", "chosen": "a"}])
    with pytest.raises(DataError, match="missing"):
        convert(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
