"""An output that names an input, under whatever name, is refused before anything is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from basereward.errors import DataError
from basereward.io.outputs import check_outputs


def test_every_name_of_an_input_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its own path, a relative path, a symbolic link, a hard link, and through `..`."""
    source = tmp_path / "rows.jsonl"
    source.write_text("{}\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(source)
    os.link(source, tmp_path / "hard")
    monkeypatch.chdir(tmp_path)
    for name in ("rows.jsonl", source, "link", "hard", "folder/../rows.jsonl"):
        with pytest.raises(DataError, match="would overwrite the input"):
            check_outputs({"--out": name}, [source])
    check_outputs({"--out": "scores.jsonl"}, [source])


def test_two_outputs_of_one_path_are_refused(tmp_path: Path) -> None:
    """Also when the two are written differently."""
    with pytest.raises(DataError, match="each a path of its own"):
        check_outputs({"--out": tmp_path / "a", "--answers": tmp_path / "b" / ".." / "a"}, [])
