"""Test that a test session fails if it leaves a file in the working tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("name", "status"), [("mlflow.db", 1), ("left.txt", 1), ("__pycache__/x.pyc", 0)])
def test_file_left_by_a_test_fails_the_session(name: str, status: int, tmp_path: Path) -> None:
    """Ignored files count too; caches of tools are allowed."""
    (tmp_path / "tests").mkdir()
    for file in ("tests/conftest.py", ".gitignore"):
        shutil.copy(ROOT / file, tmp_path / file)
    statement = f"path = pathlib.Path({str(tmp_path / name)!r}); path.parent.mkdir(exist_ok=True); path.touch()"
    (tmp_path / "tests" / "test_one.py").write_text(f"import pathlib\ndef test_one():\n    {statement}\n")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "--all"], cwd=tmp_path, check=True)
    # Without the variables that make a child process of `make test` measure coverage.
    inherited = {name: value for name, value in os.environ.items() if "SLIPCOVER" not in name.upper()}
    environment = {**inherited, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    completed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert completed.returncode == status, completed.stdout + completed.stderr
    assert (name in completed.stderr) == bool(status)


def test_check_files_finds_large_files_databases_and_local_paths(tmp_path: Path) -> None:
    """`make check` runs this script."""
    home = "/".join(["", "home", "somebody", "data"])
    cases = {
        "large.txt": b"x" * 512_001,
        "store.db": b"",
        "a.DB": b"",
        "b.db3": b"",
        "path.md": home.encode(),
        "good.md": b"runs/x and /tmp/y",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    for name in cases:
        completed = subprocess.run([ROOT / ".ci" / "check-files", tmp_path / name], capture_output=True, check=False)
        assert completed.returncode == (name != "good.md"), name
