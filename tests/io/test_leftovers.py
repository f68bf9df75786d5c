"""What killed processes have left goes, and what a living one may write stays."""

from __future__ import annotations

import os
from pathlib import Path

from basereward.io.leftovers import remove_leftovers


def test_only_old_files_and_folders_of_the_patterns_go(tmp_path: Path) -> None:
    """A young one stays, another name stays, and what a link leads to stays."""
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
