"""What every test gets: folders of its own, no network, one thread, and the real rows where there are any."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# Before any library reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
# Two processes of tests share two cores, and the processes that they start get one of them too.
os.environ["OMP_NUM_THREADS"] = "1"
# Threads of several processes share the cores: one that waits for another must not keep it from working.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest

ROOT = Path(__file__).resolve().parents[1]
BEFORE = pytest.StashKey[set[str]]()
CACHES = {".venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".import_linter_cache", ".coverage"}


def _foreign_files() -> set[str]:
    """Files in the working tree that git does not track, ignored ones included; caches of tools aside."""
    command = ["git", "status", "--porcelain", "--ignored=matching", "--untracked-files=all", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    entries = [entry[3:] for entry in done.stdout.split("\0") if entry[:2] in ("??", "!!")]
    return {entry for entry in entries if not CACHES.intersection(Path(entry).parts)}


def pytest_sessionstart(session: pytest.Session) -> None:
    """Notes what lies in the working tree. Only the controlling process of several does."""
    if not hasattr(session.config, "workerinput"):
        session.config.stash[BEFORE] = _foreign_files()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a run whose tests have left files in the working tree: they belong into temporary folders."""
    if hasattr(session.config, "workerinput"):
        return
    left = sorted(_foreign_files() - session.config.stash[BEFORE])
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        sys.stderr.write(f"\nThe tests have left in the working tree: {', '.join(left)}\n")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the files marked `slow`, so that no process waits for one at the end, and skips the tests marked
    `gpu` on a machine without one."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums in torch come in the same order on every machine and in every process."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs, caches and tracking of a test go to a folder that no other test sees."""
    folder = tmp_path_factory.mktemp("own")
    monkeypatch.setenv("BASEREWARD_RUNS", str(folder / "runs"))
    monkeypatch.setenv("BASEREWARD_CACHE", str(folder / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")


@pytest.fixture(scope="session")
def real_rows() -> Path:
    """The folder of real preference rows and pictures: $BASEREWARD_REAL_ROWS, or ../shared/data."""
    folder = Path(os.environ.get("BASEREWARD_REAL_ROWS", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real rows at {folder}; set BASEREWARD_REAL_ROWS")
    return folder
