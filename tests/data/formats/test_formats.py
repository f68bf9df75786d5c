"""Which rows are recognised, what beside them rejects a row, and what the documentation lists."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from basereward.data.formats.recognise import format_table
from basereward.data.formats.row_reader import RowReader
from basereward.data.schema.group import Group
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.rows import RowFormat
from basereward.data.sources.jsonl import Jsonl
from basereward.errors import DataError
from tests.helpers.support import write_rows

ROOT = Path(__file__).parents[3]
SWIFT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
    "rejected_response": "5",
}


def read(*rows: dict[str, Any], columns: dict[str, str | None] | None = None) -> Group:
    """Return the group of the last row, which is read after the others."""
    reader = RowReader(RowFormat(columns=columns, of_table=True))
    for row in rows[:-1]:
        reader.group(row, source="s", row_id="0", where="rows.jsonl:1")
    return reader.group(rows[-1], source="s", row_id="0", where="rows.jsonl:2")


def reason_of(*rows: dict[str, Any], columns: dict[str, str | None] | None = None) -> str:
    """Return the reason for which the last row is rejected."""
    with pytest.raises(RowRejected) as caught:
        read(*rows, columns=columns)
    return caught.value.reason


@pytest.mark.parametrize(
    ("beside", "reason"),
    [
        ({"history": [["1 + 1?", "2"]]}, "prompt_column_not_mapped"),
        ({"instruction": "Answer in words."}, "prompt_column_not_mapped"),
        ({"context": "A lesson in sums."}, "prompt_column_not_mapped"),
        ({"tools": [{"name": "add"}]}, "tools"),
        ({"img": "1.png"}, "image_column_not_mapped"),
        ({"clips": ["1.mp4"]}, "video"),
    ],
)
def test_part_of_a_prompt_beside_a_format_rejects_the_row(beside: dict[str, Any], reason: str) -> None:
    """It is read if it is mapped to null, or if the prompt has its text already."""
    [name] = beside
    assert reason_of(SWIFT | beside) == reason
    assert read(SWIFT | beside, columns={name: None}).responses == ("4", "5")
    assert read(SWIFT | {"context": "2 + 2"}).responses == ("4", "5")


def test_columns_that_all_formats_share_are_read() -> None:
    """Ids, system prompts, images under their known names, margins and ratings."""
    cells = {"id": 7, "system": "Count.", "image_path": "1.png", "margin": 2, "chosen_rating": 5, "rejected_rating": 1}
    group = read(SWIFT | cells)
    assert (group.id, [turn.role for turn in group.prompt], group.images) == ("7", ["system", "user"], (Path("1.png"),))
    assert (group.preferences[0].margin, group.ratings) == (2, (5, 1))


def test_mapping_of_the_responses_replaces_recognition() -> None:
    """A row is read by the mapping alone; a mapping of another column leaves its format."""
    row = SWIFT | {"prompt": "Q", "better": "a", "worse": "b", "gap": 3}
    assert read(row, columns={"chosen": "better", "rejected": "worse", "messages": None}).responses == ("a", "b")
    assert read(SWIFT | {"gap": 3}, columns={"margin": "gap"}).preferences[0].margin == 3


def test_implicit_prompt_of_words_needs_a_file_of_such_rows() -> None:
    """One common word may be chance, and in a file with prompts a row without one is faulty."""
    implicit = {"chosen": "The sky is blue.", "rejected": "The sky is green."}
    assert read(implicit).responses == (" blue.", " green.")
    assert reason_of({"chosen": "a seven", "rejected": "a four"}) == "no_prompt"
    assert reason_of({"prompt": "Q", "chosen": "a", "rejected": "b"}, implicit) == "no_prompt"


@pytest.mark.parametrize(
    ("prompt", "images", "reason"),
    [
        ("<image_1> and <image_3>", ["1.png", "2.png"], "image_count"),
        ("<image_1> and <image_1>", ["1.png"], "image_count"),
        ("<image_1> and <image>", ["1.png", "2.png"], "image_count"),
        ("What is <image_1>?", [], "image_count"),
        ("<img>1.png</img>Which?", ["2.png"], "conflicting_columns"),
    ],
)
def test_marks_that_do_not_fit_the_images_reject_the_row(prompt: str, images: list[str], reason: str) -> None:
    """A number without an image, twice, beside a plain mark, or a name beside a column."""
    assert reason_of({"prompt": prompt, "images": images, "chosen": "a", "rejected": "b"}) == reason


@pytest.mark.parametrize("cells", [{"margin": -0.5}, {"margins": [-1]}])
def test_negative_margin_rejects_the_row(cells: dict[str, Any]) -> None:
    """It says that the winner is worse; a margin of 0 is none."""
    form = {"chosen": "a", "rejected": "b"} if "margin" in cells else {"responses": ["a", "b"], "preferences": [[0, 1]]}
    row = {"prompt": "Q", **form}
    assert reason_of(row | cells) == "negative_margin"
    assert read(row | {name: 0 if name == "margin" else [0] for name in cells}).preferences[0].margin == 0


def test_json_that_is_read_as_text_is_noted(tmp_path: Path) -> None:
    """An answer may be JSON, but nobody should be surprised that it is not parsed."""
    row = {"prompt": "Give an object.", "chosen": '{"text": "yes"}', "rejected": "no"}
    source = Jsonl("s", path=str(write_rows(tmp_path / "rows.jsonl", [row])), val=0, test=0)
    assert source.groups("train")[0].responses == ('{"text": "yes"}', "no")
    assert [note.split()[0] for note in source.columns_read().notes] == ["chosen"]


def test_mapped_column_that_no_row_has_lists_the_others(tmp_path: Path) -> None:
    """The message has the columns there are."""
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "Q", "chosen": "a", "rejected": "b", "gap": 1}])
    with pytest.raises(DataError, match=r"margn.*prompt, chosen, rejected, gap"):
        Jsonl("s", path=str(rows), val=0, test=0, columns={"margin": "margn"}).groups("train")


def test_name_of_a_sample_is_not_reported_as_unread(caplog: pytest.LogCaptureFixture) -> None:
    """`__key__` is in every row of a WebDataset."""
    with caplog.at_level(logging.WARNING):
        folder = ROOT / "tests/fixtures/formats"
        source = Jsonl("s", path=str(folder / "trl_webdataset.tar"), val=0, test=0)
        assert source.columns_read().unread == []
    assert "__key__" not in caplog.text


def test_documentation_lists_the_table() -> None:
    """The page of the tutorial has the table that the code gives."""
    assert format_table() in (ROOT / "docs/tutorials/your-data.md").read_text()


NEMO: dict[str, Any] = {
    "context": [{"role": "user", "content": "Q"}],
    "completions": [
        {"rank": 0, "completion": [{"role": "assistant", "content": "a"}]},
        {"rank": 1, "completion": [{"role": "assistant", "content": "b"}]},
    ],
}
JUDGED = {"instruction": "Q", "answer1": {"answer": "a"}, "answer2": {"answer": "b"}, "human_answer": "A"}
RANKED = {"instruction": "Q", "answers": [{"answer": "a"}, {"answer": "b"}], "human_answer": "AB"}


@pytest.mark.parametrize("key", ["reasoning", "tools"])
@pytest.mark.parametrize(("row", "column"), [(NEMO, "completions"), (JUDGED, "answer2"), (RANKED, "answers")])
def test_unknown_key_of_a_nested_object_is_refused_or_named(row: dict[str, Any], column: str, key: str) -> None:
    """It may be part of the response; an empty one says nothing, and metadata is named."""

    def with_key(name: str, value: object) -> dict[str, Any]:
        items = row[column]
        last = (items[-1] if isinstance(items, list) else items) | {name: value}
        return row | {column: [*items[:-1], last] if isinstance(items, list) else last}

    assert reason_of(with_key(key, "x")) == "unknown_key"
    reader = RowReader(RowFormat(of_table=True))
    for made in (with_key(key, None), with_key("model", "m")):
        assert reader.group(made, source="s", row_id="0", where="rows.jsonl:1").responses == ("a", "b")
    assert reader.report.unread == [f"{column}[].model" if isinstance(row[column], list) else f"{column}.model"]


def test_annotations_of_completions_are_named() -> None:
    """Those of UltraFeedback have a dozen of other scores and texts."""
    completions = [{"response": "a", "overall_score": 2}, {"response": "b", "overall_score": 1, "critique": "Bad."}]
    reader = RowReader(RowFormat(of_table=True))
    reader.group({"instruction": "Q", "completions": completions}, source="s", row_id="0", where="rows.jsonl:1")
    assert reader.report.unread == ["completions[].critique"]
