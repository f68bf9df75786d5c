"""Test the wheel: what is in it, and that commands find it from an empty folder. `make installed` trains with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from mypy.modulefinder import FindModuleCache, ModuleNotFoundReason, SearchPaths
from mypy.options import Options

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("basereward", "experiments", "setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder into which the wheel is unpacked, as pip does."""
    # From a copy, since a build leaves files beside its sources.
    copy, built = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("built")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(built), str(copy)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    (wheel,) = built.glob("*.whl")
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(site: Path, folder: Path, *arguments: str) -> dict[str, Any]:
    """Run a command of the unpacked wheel in a folder, and return the object that it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BASEREWARD_")}
    code = (
        "import sys; sys.path = [p for p in sys.path if p]; import basereward, basereward.cli; "
        f"assert basereward.__file__.startswith({str(site)!r}); sys.exit(basereward.cli.main())"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--json"],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    result: dict[str, Any] = json.loads(completed.stdout)
    return result


def test_every_shipped_file_is_in_the_wheel(installed: Path) -> None:
    """YAML files, their schemas, prompts and the parts of pages; and nothing lands outside of the package."""
    for pattern in ("*.yaml", "*.json"):
        for file in (ROOT / "experiments").rglob(pattern):
            inside = installed / "basereward" / "experiments" / file.relative_to(ROOT / "experiments")
            assert inside.read_bytes() == file.read_bytes()
    package = [file for file in (ROOT / "basereward").rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert all((installed / file.relative_to(ROOT)).is_file() for file in package)
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"basereward"}


def test_types_are_exported(installed: Path) -> None:
    """A type checker reads the package's annotations: without `py.typed` it would take every name for Any."""
    paths = SearchPaths(python_path=(), mypy_path=(), package_path=(str(installed),), typeshed_path=())
    assert FindModuleCache(paths, None, Options()).find_module("basereward") == str(
        installed / "basereward" / "__init__.py"
    )
    (installed / "basereward" / "py.typed").rename(installed / "moved")
    try:
        reason = FindModuleCache(paths, None, Options()).find_module("basereward")
        assert reason is ModuleNotFoundReason.FOUND_WITHOUT_TYPE_HINTS
    finally:
        (installed / "moved").rename(installed / "basereward" / "py.typed")


def test_shipped_files_are_found_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """No variable is set. The lists are those of the repository, and a sweep has its cells."""
    for kind in ("experiments", "profiles", "sources", "benchmarks", "heads"):
        listed = {entry["name"] for entry in run(installed, tmp_path, "ls", kind)[kind]}
        there = "experiments" if kind == "experiments" else f"experiments/{kind}"
        files = ROOT / (there if kind != "heads" else "basereward/model/heads")
        suffix = "*.py" if kind == "heads" else "*.yaml"
        expected = {file.stem for file in files.glob(suffix) if not file.name.startswith("_")} - {"contracts"}
        assert {name for name in listed if "/" not in name} == expected
    checked = run(installed, tmp_path, "check", "head_depth")
    assert (len(checked["cells"]), checked["faults"]) == (7, [])
