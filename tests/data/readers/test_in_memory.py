"""Rows in memory are read like those of a file."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas
import PIL.Image
import pytest

from basereward.data.conversion import convert
from basereward.data.images.open_images import open_image
from basereward.data.readers.in_memory import in_memory
from basereward.data.sources.jsonl import read_rows
from basereward.errors import DataError
from tests.helpers.support import picture

ROWS = [
    {"prompt": "What is missing?", "chosen": "None", "rejected": "nan", "margin": 1.5},
    {"prompt": "7?", "chosen": "8", "rejected": "6", "margin": None},
]
OPENED: dict[str, Callable[[], Any]] = {
    "list": lambda: ROWS,
    "generator": lambda: (row for row in ROWS),
    "data frame": lambda: pandas.DataFrame(ROWS),
    "data set": lambda: datasets.Dataset.from_list(ROWS),
    "stream": lambda: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
}


@pytest.mark.parametrize("kind", OPENED)
def test_objects_are_read_like_a_file(kind: str, tmp_path: Path) -> None:
    """A missing number is null, and answers that look like one are texts; `convert` writes them all."""
    groups = read_rows(OPENED[kind]())
    assert [(group.responses, group.preferences[0].margin) for group in groups] == [
        (("None", "nan"), 1.5),
        (("8", "6"), None),
    ]
    assert convert(OPENED[kind](), tmp_path / "rows.jsonl")["rows"] == 2
    assert [group.responses for group in read_rows(tmp_path / "rows.jsonl")] == [("None", "nan"), ("8", "6")]


@pytest.mark.parametrize("as_data_set", [False, True])
def test_decoded_images_are_written_beside_the_rows(as_data_set: bool, tmp_path: Path) -> None:
    """An image that several rows have is written once; its pixels do not change."""
    row = {"prompt": "Which digit?", "chosen": "a", "rejected": "b", "image": picture(0)}
    rows: Any = [row, row, {**row, "image": picture(1)}]
    if as_data_set:
        features = datasets.Features({"image": datasets.Image()})
        features.update({name: datasets.Value("string") for name in ("prompt", "chosen", "rejected")})
        rows = datasets.Dataset.from_list(rows, features=features)
    facts = convert(rows, tmp_path / "rows.jsonl")
    assert facts["images"] == str(tmp_path / "rows.images")
    assert len(list((tmp_path / "rows.images").iterdir())) == 2
    pixels = [open_image(group.images[0]).tobytes() for group in read_rows(tmp_path / "rows.jsonl")]
    assert pixels == [picture(i).tobytes() for i in (0, 0, 1)]


@pytest.mark.parametrize("rows", ["pairs", 7, [1], {"prompt": "Q"}, datasets.DatasetDict(test=None)])
def test_objects_that_are_no_rows_are_refused(rows: Any) -> None:
    """A text, a number, a list of numbers, one row alone, and a data set of several splits."""
    with pytest.raises(DataError):
        in_memory(rows)


def test_bytes_of_an_image_are_not_changed(tmp_path: Path) -> None:
    """A JPEG in a row stays the same file."""
    out = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), (9, 9, 9)).save(out, "JPEG")
    convert([{"prompt": "Q", "chosen": "a", "rejected": "b", "images": [out.getvalue()]}], tmp_path / "rows.jsonl")
    [file] = (tmp_path / "rows.images").iterdir()
    assert (file.suffix, file.read_bytes()) == (".jpg", out.getvalue())
