"""Outputs must not replace an input, each other, or a device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from basereward.errors import DataError
from basereward.io.files import write_atomic
from basereward.io.outputs import (
    RUN_FILES,
    RUN_FOLDERS,
    check_outputs,
    check_outside_runs,
    check_replaceable,
    foreign_files,
)
from basereward.runs.run_folder import STATE_FILES, RunFolder


def test_output_must_not_be_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_two_outputs_must_not_have_one_path(tmp_path: Path) -> None:
    """Also if the two paths are written differently."""
    with pytest.raises(DataError, match="each a path of its own"):
        check_outputs({"--out": tmp_path / "a", "--answers": tmp_path / "b" / ".." / "a"}, [])


def test_devices_and_pipes_are_not_replaced(tmp_path: Path) -> None:
    """Renaming a file to /dev/null would replace it for every program. Links to files are allowed."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to-pipe").symlink_to(tmp_path / "pipe")
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    for name in ("pipe", "to-pipe", "stdout"):
        with pytest.raises(DataError, match=r"--out .* is a device or a pipe"):
            check_outputs({"--out": tmp_path / name}, [])
        with pytest.raises(OSError, match="device or a pipe"):
            write_atomic(tmp_path / name, "x")
    assert sorted(os.listdir(tmp_path)) == ["pipe", "stdout", "to-pipe"]
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    check_outputs({"--out": tmp_path / "link"}, [])


def test_every_file_of_a_run_is_protected(tmp_path: Path) -> None:
    """What a run writes itself has a name that no output may have; `evaluations` gets the results of later commands."""
    run = RunFolder.create("name: a", recipe_sha256="0", name="a", root=tmp_path)
    assert {run.recipe.name, "status.json", run.identity.name, run.rejections.name, *STATE_FILES} <= RUN_FILES
    folders = (run.checkpoints, run.model, run.figures, run.scores, run.journal.folder, run.lease)
    assert {folder.name for folder in folders} == RUN_FOLDERS
    for name in (*RUN_FILES, *(f"{folder}/x" for folder in RUN_FOLDERS)):
        with pytest.raises(DataError, match="of the run"):
            check_outside_runs(run.path / "evaluations" / ".." / name, name="--out")
    # A result beside the files of the run, its evaluations, and the same names elsewhere.
    for path in (run.path / "mine.jsonl", run.evaluations / "model" / "recipe.yaml", tmp_path / "model" / "x"):
        check_outside_runs(path, name="--out")


def test_nul_character_is_named(tmp_path: Path) -> None:
    """The system would fail on it with the words `embedded null byte` alone."""
    path = tmp_path / "a\0b"
    with pytest.raises(DataError, match=r"--out .*a\\x00b' has a NUL character"):
        check_outputs({"--out": path, "the list": tmp_path / "b"}, [])
    with pytest.raises(DataError, match="NUL character"):
        check_replaceable(path, foreign=lambda _: [])
    with pytest.raises(OSError, match="NUL character"):
        write_atomic(path, "")
    check_outputs({"--out": tmp_path / "b"}, [path])
    assert list(tmp_path.iterdir()) == []


def test_file_of_a_killed_writer_does_not_make_a_folder_foreign(tmp_path: Path) -> None:
    """SIGKILL in the middle of a write leaves a temporary file; the folder can be replaced all the same."""
    program = (
        "import os, signal\n"
        "from basereward.io.files import atomic_path\n"
        "with atomic_path('config.json') as partial:\n"
        "    partial.touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode == -9
    (left,) = tmp_path.iterdir()
    assert foreign_files(tmp_path, lambda name: name == "config.json") == []
    check_replaceable(tmp_path, foreign=lambda folder: foreign_files(folder, lambda name: False))
    (tmp_path / ".notes.tmp").touch()
    assert foreign_files(tmp_path, lambda name: False) == [".notes.tmp"]
    assert left.name.startswith(".config.json.")
