"""Files are written completely or not at all, and an error of the disk names the file and the reason."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from basereward.errors import RunError
from basereward.io.files import atomic_file, atomic_path, disk_faults, write_atomic


def test_a_write_that_fails_leaves_the_old_file_and_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is left in the folder."""
    write_atomic(tmp_path / "status.json", "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/status\.json'"):
        write_atomic(tmp_path / "status.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
    assert (tmp_path / "status.json").read_text() == "old"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_a_disk_that_cannot_be_used_is_named(code: int, tmp_path: Path) -> None:
    """Also when the file is not there yet; a full disk with the room on it."""
    path = tmp_path / "no" / "such" / "file"
    with pytest.raises(RunError) as caught, disk_faults():
        raise OSError(code, os.strerror(code), str(path))
    assert f"'{path}' cannot be used: {os.strerror(code)}" in str(caught.value)
    assert ("are free there. Make room" in str(caught.value)) == (code == errno.ENOSPC)


def test_what_lies_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    """The file that is in the way, not only the path below it that was asked for."""
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError) as caught, disk_faults():
        (tmp_path / "runs" / "a" / "b").mkdir(parents=True)
    assert f"'{tmp_path / 'runs'}' is no folder" in str(caught.value)


def test_other_errors_of_the_system_keep_their_traceback() -> None:
    """A file that is missing where it must be is a slip of ours."""
    with pytest.raises(FileNotFoundError), disk_faults():
        raise FileNotFoundError(errno.ENOENT, "not there", "x")
    with pytest.raises(BrokenPipeError), disk_faults():
        raise BrokenPipeError(errno.EPIPE, "gone")


def test_a_file_written_in_pieces_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    """A block that fails leaves the old file and nothing else; an error of its own keeps the name of its own file."""
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


def test_a_library_writes_to_a_path_that_takes_the_name_at_the_end(tmp_path: Path) -> None:
    """In the same folder, so that the rename is atomic, with the permissions of any new file."""
    target = tmp_path / "model.safetensors"
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"weights")
    (tmp_path / "other").touch()
    assert target.read_bytes() == b"weights"
    assert target.stat().st_mode == (tmp_path / "other").stat().st_mode
