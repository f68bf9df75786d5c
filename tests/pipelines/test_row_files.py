"""Test that rows which a stage writes into another folder still find their images and videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from basereward.data.schema.group import image_files
from basereward.data.sources.jsonl import read_rows as read_groups
from basereward.pipelines.stages.contracts import write_rows as write_stage_rows
from basereward.pipelines.stages.row_files import read_rows
from tests.helpers.support import write_rows

PAIR = {"chosen": "4", "rejected": "5"}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def asked(*parts: dict[str, Any]) -> dict[str, Any]:
    """A pair whose prompt is a message of these parts and a question."""
    return {"prompt": [{"role": "user", "content": [*parts, {"type": "text", "text": "Which?"}]}], **PAIR}


# A row, and the files that it names.
ROWS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "images": ({"prompt": "?", "images": ["a.png", {"path": "b.png", "bytes": None}], **PAIR}, ["a.png", "b.png"]),
    "image": ({"prompt": "?", "image": "a:b.png", **PAIR}, ["a:b.png"]),
    "another name": ({"prompt": "?", "image_path": "a.png", **PAIR}, ["a.png"]),
    "of a pair": (
        {"prompt": "?", "chosen_images": ["a.png"], "rejected_images": ["b.png"], **PAIR},
        ["a.png", "b.png"],
    ),
    "of responses": (
        {"prompt": "?", "responses": ["4", "5"], "ranking": [0, 1], "response_images": [["a.png"], []]},
        ["a.png"],
    ),
    "videos": ({"prompt": "?", "videos": ["a.mp4", ["1.png", "2.png"]], **PAIR}, ["a.mp4", "1.png", "2.png"]),
    "frames": ({"prompt": "?", "video": {"frames": ["1.png"], "fps": 2}, **PAIR}, ["1.png"]),
    "parts": (
        asked({"type": "image", "image": "a.png"}, {"type": "image_url", "image_url": {"url": "b.png"}}),
        ["a.png", "b.png"],
    ),
    "video part": (asked({"type": "video", "video": "a.mp4"}), ["a.mp4"]),
    "message": ({"prompt": [{"role": "user", "content": "Which?", "images": ["a.png"]}], **PAIR}, ["a.png"]),
    "mark": ({"prompt": [{"role": "user", "content": "<img>a.png</img> Which?"}], **PAIR}, ["a.png"]),
}


@pytest.mark.parametrize("name", ROWS)
def test_media_are_found_from_another_folder(name: str, tmp_path: Path) -> None:
    """Wherever a row names an image or a video, the row that a stage writes elsewhere names the same file."""
    row, files = ROWS[name]
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    for file in files:
        (first / file).write_bytes(b"x")
    source = write_rows(first / "rows.jsonl", [row])
    copied = write_stage_rows(second / "rows.jsonl", read_rows(source))
    groups = list(read_groups(copied))
    assert sorted(image_files(groups)) == sorted(first / file for file in files)
    assert sorted(image_files(read_groups(str(source)))) == sorted(first / file for file in files)


def test_what_is_no_path_is_left_as_it_is(tmp_path: Path) -> None:
    """Addresses, base64 with and without a data URI, paths that are absolute, and texts about HTML."""
    images = ["http://x/y.png", f"data:image/png;base64,{PNG}", PNG, "/a/b.png", {"bytes": PNG, "path": "c.png"}]
    row = {"id": "a", "prompt": "What does <img>logo</img> do?", "images": images, "margin": 1.5, **PAIR}
    assert list(read_rows(write_rows(tmp_path / "rows.jsonl", [row]))) == [row]


def test_other_name_of_a_column_beside_it_is_not_a_path(tmp_path: Path) -> None:
    """`file_name` beside `images` is a fact about the row."""
    row = {"id": "a", "prompt": "?", "images": ["/a/b.png"], "file_name": "shard 3", **PAIR}
    assert list(read_rows(write_rows(tmp_path / "rows.jsonl", [row]))) == [row]
