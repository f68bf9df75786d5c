"""A listing of data files: paths below folders that do not exist here, image folders, and missing files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import HfHubHTTPError

from basereward.data.readers.find import find_files, find_table
from basereward.data.readers.listed import find_listed
from basereward.errors import DataError
from tests.helpers.support import write_rows


def write_list(folder: Path, entries: Any) -> str:
    """Write a listing into a folder, and return the folder."""
    (folder / "meta.json").write_text(json.dumps(entries))
    return str(folder)


def test_roots_are_prepended_to_image_paths(tmp_path: Path) -> None:
    """For one path, several and none; folders that are dropped from `annotation` are dropped from `root`."""
    (tmp_path / "notes").mkdir()
    rows = [{"image": "1.png"}, {"image": ["1.png", "a/2.png"]}, {"question": "Why?"}, {"image": None}]
    write_rows(tmp_path / "notes" / "a.jsonl", rows)
    write_rows(tmp_path / "b.jsonl", [{"image": "1.png"}])
    entries = {
        "a": {"annotation": "SET/v1/notes/a.jsonl", "root": "SET/v1/images/a"},
        "b": {"annotation": "b.jsonl", "root": "pictures", "repeat_time": 3},
    }
    table = find_listed(write_list(tmp_path, entries), "meta.json")
    decoded = [table.decode(raw) for _, _, raw in table.scan()]
    assert decoded == [
        {"image": "images/a/1.png"},
        {"image": ["images/a/1.png", "images/a/a/2.png"]},
        rows[2],
        rows[3],
        {"image": "pictures/1.png"},
    ]
    assert [table.decode(table.read(place)) for place, _, _ in table.scan()] == decoded


def test_all_missing_files_are_listed(tmp_path: Path) -> None:
    """Not only the first one."""
    entries = {name: {"annotation": f"SET/{name}.jsonl", "root": "."} for name in ("a", "b")}
    with pytest.raises(DataError, match=r"lists files that are not in .*\n  a: SET/a.jsonl\n  b: SET/b.jsonl"):
        find_listed(write_list(tmp_path, entries), "meta.json")


def test_error_for_a_missing_folder_explains_the_download(tmp_path: Path) -> None:
    """The error says how to download and unpack the data set."""
    with pytest.raises(DataError, match="unpack the annotations, join the parts of the images' archive"):
        find_listed("OpenGVLab/MMPR-v1.2", "meta.json")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "an object of data files by name is needed"),
        ({"a": {"root": "x"}}, "an object with `annotation` and `root` is needed"),
        ({"a": {"annotation": "../secret.jsonl"}}, "is not below the folder"),
    ],
)
def test_invalid_listing_is_an_error(entries: Any, message: str, tmp_path: Path) -> None:
    """The error names the invalid entry."""
    with pytest.raises(DataError, match=message):
        find_listed(write_list(tmp_path, entries), "meta.json")


@pytest.mark.parametrize("kind", HfHubHTTPError.__bases__)
def test_pattern_of_files_on_the_hub_without_a_network(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library of the hub or its HTTP library raises is an error that names the data set and the pattern."""

    def fail(*arguments: Any, **options: Any) -> Any:
        raise kind("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", fail)
    with pytest.raises(DataError, match=r"'owner/set'.*\*\.json.*Name or service not known"):
        find_table("owner/set", files=["*.json"])


def test_pattern_finds_files_in_a_linked_folder(tmp_path: Path) -> None:
    """Rows below a link to another disk are rows of the data set."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "rows.jsonl").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "disk")
    assert find_files(str(tmp_path / "data"), "**/*.jsonl") == [tmp_path / "data" / "linked" / "rows.jsonl"]
