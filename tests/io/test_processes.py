"""Leftovers of killed processes are removed; files of running processes stay."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from basereward.io.files import write_atomic
from basereward.io.processes import remove_leftovers, temporary_name


def test_only_old_matching_leftovers_are_removed(tmp_path: Path) -> None:
    """Young leftovers, other names and the targets of links stay."""
    for name in (".a.new", ".b.new", "run"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    (tmp_path / ".c.new").symlink_to(tmp_path / "run")
    for name in (".a.new", "run"):
        os.utime(tmp_path / name, (1e9, 1e9))
    os.utime(tmp_path / ".c.new", (1e9, 1e9), follow_symlinks=False)
    remove_leftovers(tmp_path, ".*.new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.new", "run"]
    assert (tmp_path / "run" / "file").exists()
    remove_leftovers(tmp_path, ".*.new", older_than_s=0)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    remove_leftovers(tmp_path / "missing", "*")


def test_leftovers_of_a_dead_process_are_removed_at_once(tmp_path: Path) -> None:
    """At any age; files of a running process, and of a process on another machine, stay."""
    code = (
        "import sys; from pathlib import Path; from basereward.io.processes import temporary_name as name; "
        "Path(sys.argv[1], name('a', '.new')).mkdir(); Path(sys.argv[1], name('b.json', '.tmp')).touch()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    of_this_process = tmp_path / temporary_name("c", ".new")
    of_this_process.mkdir()
    of_another_machine = tmp_path / ".d.1-1-00000000.new"
    of_another_machine.mkdir()
    assert len(list(tmp_path.iterdir())) == 4
    remove_leftovers(tmp_path, ".*.new", ".*.tmp")
    assert sorted(tmp_path.iterdir()) == sorted([of_this_process, of_another_machine])


def test_write_removes_leftovers_of_the_same_file(tmp_path: Path) -> None:
    """Leftovers of other files stay."""
    code = (
        "import os, sys; from basereward.io.files import atomic_file\n"
        "for name in ('scores.jsonl', 'other.jsonl'):\n"
        "    block = atomic_file(os.path.join(sys.argv[1], name)); block.__enter__().write(b'half'); kept = [block]\n"
        "    globals()[name] = block\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    assert len(list(tmp_path.iterdir())) == 2
    write_atomic(tmp_path / "scores.jsonl", "whole")
    (leftover,) = (path.name for path in tmp_path.iterdir() if path.name.startswith("."))
    assert leftover.startswith(".other.jsonl.")
    assert (tmp_path / "scores.jsonl").read_text() == "whole"
