"""Files are written completely or not at all, and disk errors name the file and the reason."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from basereward.errors import RunError
from basereward.io.files import atomic_file, atomic_path, disk_faults, write_atomic


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file, and no other file is left in the folder."""
    write_atomic(tmp_path / "status.json", "old")

    def raise_disk_full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", raise_disk_full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/status\.json'"):
        write_atomic(tmp_path / "status.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
    assert (tmp_path / "status.json").read_text() == "old"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_disk_fault_names_path_and_reason(code: int, tmp_path: Path) -> None:
    """Also if the path does not exist yet; for a full disk, with the free space."""
    path = tmp_path / "no" / "such" / "file"
    with pytest.raises(RunError) as caught, disk_faults():
        raise OSError(code, os.strerror(code), str(path))
    assert f"'{path}' cannot be used: {os.strerror(code)}" in str(caught.value)
    assert ("are free there. Make room" in str(caught.value)) == (code == errno.ENOSPC)


def test_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    """The error names the file, not only the requested path below it."""
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError) as caught, disk_faults():
        (tmp_path / "runs" / "a" / "b").mkdir(parents=True)
    assert f"'{tmp_path / 'runs'}' is no folder" in str(caught.value)


def test_other_os_errors_pass_through() -> None:
    """A missing file that must exist is a bug, so its traceback is kept."""
    with pytest.raises(FileNotFoundError), disk_faults():
        raise FileNotFoundError(errno.ENOENT, "not there", "x")
    with pytest.raises(BrokenPipeError), disk_faults():
        raise BrokenPipeError(errno.EPIPE, "gone")


def test_atomic_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    """A block that fails leaves only the old file; an error about another file keeps that file's name."""
    target = tmp_path / "rows.jsonl"
    with atomic_file(target) as file:
        file.write(b"old\n")
        assert not target.exists()

    def copy(source: Path) -> None:
        with atomic_file(target) as file:
            file.write(b"new\n")
            file.write(source.read_bytes())

    with pytest.raises(FileNotFoundError) as caught:
        copy(tmp_path / "input")
    assert str(caught.value.filename) == str(tmp_path / "input")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    assert target.read_text() == "old\n"


def test_atomic_path_is_renamed_at_the_end(tmp_path: Path) -> None:
    """The temporary path is in the same folder, so that the rename is atomic; permissions are those of a new file."""
    target = tmp_path / "model.safetensors"
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"weights")
    (tmp_path / "other").touch()
    assert target.read_bytes() == b"weights"
    assert target.stat().st_mode == (tmp_path / "other").stat().st_mode
