"""The mapping of columns that a message proposes is YAML, has the names in the data, and lets the row be read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from basereward.data.formats.row_reader import RowReader
from basereward.data.schema.group import Group
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.rows import RowFormat
from basereward.data.sources.jsonl import Jsonl
from basereward.errors import DataError
from tests.helpers.support import write_rows

PAIR = {"prompt": "Q", "chosen": "a", "rejected": "b"}
ARGILLA = {"instruction": "Q", "chosen_response": "a", "rejected_response": "b"}
QUERY = {"query": "Q", "response": "a", "rejected_response": "b"}
ROWS: dict[str, dict[str, Any]] = {
    "ratings under other names": PAIR | {"score_chosen": 1, "score_rejected": 8},
    "one rating under another name": PAIR | {"score_chosen": 1},
    "ratings in a list": {"prompt": "Q", "responses": ["a", "b"], "ranking": [0, 1], "ratings": [0.1, 0.9]},
    "too few ratings in a list": {"prompt": "Q", "responses": ["a", "b"], "ranking": [0, 1], "ratings": [0.1]},
    "ratings of argilla": ARGILLA | {"chosen_avg_rating": 1, "rejected_avg_rating": 8},
    "other ratings beside argilla's columns": ARGILLA | {"chosen-rating": 1, "rejected-rating": 8},
    "margin": PAIR | {"margin": -1},
    "margins": {"prompt": "Q", "responses": ["a", "b"], "preferences": [[0, 1]], "margins": [-1]},
    "margin beside ms-swift's columns": QUERY | {"margin": -1},
    "history": PAIR | {"history": "Hi"},
    "history of ms-swift": QUERY | {"history": "Hi"},
    "tools": PAIR | {"Tools": [{"name": "add"}]},
    "videos under a name with a colon": PAIR | {"video: clips": ["1.mp4"]},
    "images of a response under a name of digits": PAIR | {"7": "x", "rejected image": "1.png"},
    "response with blanks in its name": {"prompt": "Q", " chosen": "a", "rejected": "b"},
    "response with a bracket in its name": {"prompt": "Q", "chosen": "a", "{rejected": "b"},
    "prompt with a blank in its name": {"prompt ": "Q", "responses": ["a", "b"], "ranking": [0, 1]},
}


def read(row: dict[str, Any], columns: dict[str, str | None]) -> Group:
    """Return the group of a row."""
    reader = RowReader(RowFormat(columns=columns, of_table=True))
    return reader.group(row, source="s", row_id="0", where="rows.jsonl:1")


def proposed(message: str) -> dict[str, str | None]:
    """Return the last mapping of columns that a message proposes."""
    text = re.findall(r"columns: \{.*?\}(?=\.|;|$| leaves)", message)[-1]
    columns: dict[str, str | None] = yaml.safe_load(text.rpartition("columns: ")[2])
    return columns


@pytest.mark.parametrize("name", ROWS)
def test_proposed_mapping_lets_the_row_be_read(name: str) -> None:
    """It maps, or leaves unread, columns that the row has."""
    row = ROWS[name]
    with pytest.raises(RowRejected) as caught:
        read(row, {})
    columns = proposed(caught.value.detail)
    assert {ours if own is None else own for ours, own in columns.items()} <= set(row)
    assert read(row, columns).responses == ("a", "b")


@pytest.mark.parametrize("row", [PAIR, QUERY, ARGILLA], ids=["ours", "ms-swift", "argilla"])
@pytest.mark.parametrize("name", ["context", "History"])
def test_proposed_mapping_of_a_part_of_the_prompt_adds_it(row: dict[str, Any], name: str) -> None:
    """In rows with our columns and in those of any format."""
    cell: Any = [["Hi", "Hello"]] if name == "History" else "A lesson."
    with pytest.raises(RowRejected) as caught:
        read(row | {name: cell}, {})
    [first, _] = re.findall(r"columns: (\{.*?\})", caught.value.detail)
    texts = [part.text for turn in read(row | {name: cell}, yaml.safe_load(first)).prompt for part in turn.parts]
    assert texts == (["Hi", "Hello", "Q"] if name == "History" else ["Q\nA lesson."])


def test_source_takes_the_proposed_mapping(tmp_path: Path) -> None:
    """The names that are left unread are columns of the file, which is checked there."""
    rows = str(write_rows(tmp_path / "rows.jsonl", [ROWS["ratings under other names"]]))
    with pytest.raises(DataError) as caught:
        Jsonl("s", path=rows, val=0, test=0).groups("train")
    source = Jsonl("s", path=rows, val=0, test=0, columns=proposed(str(caught.value)))
    assert source.groups("train")[0].ratings == ()


@pytest.mark.parametrize("row", [PAIR | {"gap": -1}, QUERY | {"gap": -1}])
def test_mapped_column_is_to_be_removed_from_the_mapping(row: dict[str, Any]) -> None:
    """Our name is not in the data, and null for the name in the data would not undo the mapping."""
    with pytest.raises(RowRejected, match="remove margin from `columns`"):
        read(row, {"margin": "gap"})


def test_columns_that_an_adapter_makes_have_no_names_in_the_data() -> None:
    """No mapping of the recipe leaves them unread, so none is proposed."""

    class Rated:
        columns = ("better",)

        def __call__(self, row: Any) -> dict[str, Any]:
            return {"prompt": "Q", "chosen": row["better"], "rejected": "b", "margin": -1}

    reader = RowReader(RowFormat(of_table=True), adapter=Rated())
    with pytest.raises(RowRejected) as caught:
        reader.group({"better": "a"}, source="s", row_id="0", where="rows.jsonl:1")
    assert caught.value.reason == "negative_margin"
    assert "columns" not in caught.value.detail
