"""A run of tests that leaves a file in the working tree fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("name", "status"), [("mlflow.db", 1), ("left.txt", 1), ("__pycache__/x.pyc", 0)])
def test_a_file_that_a_test_leaves_behind_fails_the_run(name: str, status: int, tmp_path: Path) -> None:
    """An ignored one too; caches of tools are allowed."""
    (tmp_path / "tests").mkdir()
    for file in ("tests/conftest.py", ".gitignore"):
        shutil.copy(ROOT / file, tmp_path / file)
    leave = f"path = pathlib.Path({str(tmp_path / name)!r}); path.parent.mkdir(exist_ok=True); path.touch()"
    (tmp_path / "tests" / "test_one.py").write_text(f"import pathlib\ndef test_one():\n    {leave}\n")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "--all"], cwd=tmp_path, check=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert (name in done.stderr) == bool(status)


def test_large_files_products_and_paths_of_one_machine_are_found(tmp_path: Path) -> None:
    """The check of the tree that `make check` runs."""
    home = "/".join(["", "home", "somebody", "data"])
    cases = {"large.txt": b"x" * 512_001, "store.db": b"", "path.md": home.encode(), "good.md": b"runs/x and /tmp/y"}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    for name in cases:
        done = subprocess.run([ROOT / ".ci" / "check-files", tmp_path / name], capture_output=True, check=False)
        assert done.returncode == (name != "good.md"), name
