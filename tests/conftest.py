"""Fixtures of every test: separate folders, no network, one thread, and the real rows if they exist."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# These variables must be set before any library reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
# Two test processes share two cores, also with the processes that they start.
os.environ["OMP_NUM_THREADS"] = "1"
# Threads of several processes share the cores, so a waiting thread must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parents[1]
BEFORE = pytest.StashKey[set[str]]()
CACHES = {".venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".import_linter_cache", ".coverage"}


def _foreign_files() -> set[str]:
    """Return untracked files in the working tree, including ignored ones but not the caches of tools."""
    command = ["git", "status", "--porcelain", "--ignored=matching", "--untracked-files=all", "-z"]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    entries = [entry[3:] for entry in completed.stdout.split("\0") if entry[:2] in ("??", "!!")]
    return {entry for entry in entries if not CACHES.intersection(Path(entry).parts)}


def pytest_sessionstart(session: pytest.Session) -> None:
    """Record the untracked files before the tests; with several processes only the controller does this."""
    if not hasattr(session.config, "workerinput"):
        session.config.stash[BEFORE] = _foreign_files()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session whose tests left files in the working tree: they belong in temporary folders."""
    if hasattr(session.config, "workerinput"):
        return
    left = sorted(_foreign_files() - session.config.stash[BEFORE])
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        sys.stderr.write(f"\nThe tests have left in the working tree: {', '.join(left)}\n")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files marked `slow` first, so that no process waits for one at the end. Skip tests marked `peers` unless they
    are asked for, and tests marked `gpu` on a machine without a GPU."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if os.environ.get("BASEREWARD_PEERS") != "1":
        for item in items:
            if item.get_closest_marker("peers"):
                item.add_marker(pytest.mark.skip(reason="compares with another trainer; set BASEREWARD_PEERS=1"))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Use one thread, so that sums in torch have the same order on every machine and in every process."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test its own folder for runs, cache and tracking."""
    folder = tmp_path_factory.mktemp("own")
    monkeypatch.setenv("BASEREWARD_RUNS", str(folder / "runs"))
    monkeypatch.setenv("BASEREWARD_CACHE", str(folder / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables and no run, which takes seconds to make and is fast to copy."""
    from basereward.runs.tracking.database import ensure_database
    from basereward.runs.tracking.mlflow_store import _build_database, load_mlflow

    load_mlflow()
    folder = tmp_path_factory.getbasetemp()
    # The processes of pytest-xdist share it.
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    path = folder / "empty_store" / "mlflow.db"
    ensure_database(path, build=_build_database)
    return path


@pytest.fixture
def ready_store(own_folders: None, empty_store: Path) -> None:
    """Give the test a store that has MLflow's tables already."""
    shutil.copy(empty_store, os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///"))


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the processes in which sweeps of this process train their cells and make ensembles."""
    from tests.helpers.forked_worker import ForkedWorker

    monkeypatch.setattr("basereward.sweeps.worker_process.popen_with_interrupts_blocked", ForkedWorker)


@pytest.fixture(scope="module")
def forked_scorers() -> Iterator[None]:
    """Fork the processes in which several devices score."""
    from tests.helpers.forked_worker import spawn_forked

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("basereward.inference.parallel_scorer.spawn", spawn_forked)
        patch.setattr("basereward.serve.worker_pool.spawn", spawn_forked)
        yield


@pytest.fixture(scope="module")
def ray_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a Ray cluster with two CPUs for the tests of a module, and return its address."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs the extra ray")
    from tests.helpers.ray_servers import running_ray

    with running_ray(cpus=2, log=tmp_path_factory.mktemp("ray") / "log") as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start a headless Chromium for the tests of a module; skip them where none is installed."""
    from tests.helpers.browser import CHROMIUM, running_browser

    if CHROMIUM is None:
        pytest.skip("needs a chromium on the PATH")
    with running_browser() as started:
        yield started


@pytest.fixture(scope="session")
def real_rows() -> Path:
    """Return the folder of real preference rows and pictures: $BASEREWARD_REAL_ROWS, or ../shared/data."""
    folder = Path(os.environ.get("BASEREWARD_REAL_ROWS", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real rows at {folder}; set BASEREWARD_REAL_ROWS")
    return folder
