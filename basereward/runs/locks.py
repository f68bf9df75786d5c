"""Leases on recipes and on runs, which hold between all machines that share the folder of runs.

Several sweeps may share one folder of runs. The lease of a cell lets one of them have it trained. The lease of its
training is held by the process that trains it, which may outlive the sweep on a cluster. The lease of a run keeps two
processes from writing into the same run folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from basereward.io.files import state_folder
from basereward.io.lease import LostLeaseError, SharedLease, acquire_shared, shared_holder
from basereward.runs.run_folder import RunFolder, RunKind, list_runs, runs_root

TRAINING = ".training"
"""Suffix of the lease of a training."""


@contextlib.contextmanager
def cell_lock(recipe_sha256: str, *, wait: bool) -> Iterator[bool]:
    """Hold the lease of a recipe until the end of the block, or until the process ends.

    Args:
        recipe_sha256: hash of the cell's recipe.
        wait: wait while another process holds the lease.

    Yields:
        Whether this process holds the lease; always true with `wait`.

    >>> import tempfile
    >>> from unittest import mock
    >>> with mock.patch.dict("os.environ", {"BASEREWARD_RUNS": tempfile.mkdtemp()}):
    ...     with cell_lock("0" * 64, wait=False) as is_ours, cell_lock("0" * 64, wait=False) as is_ours_again:
    ...         is_ours, is_ours_again
    (True, False)
    """
    lease = acquire_shared(_lease_folder(recipe_sha256), wait=wait)
    if lease is None:
        yield False
        return
    with lease:
        yield True


@contextlib.contextmanager
def training_lock(recipe_sha256: str) -> Iterator[None]:
    """Hold the lease of the training of a recipe, after waiting for another process that trains it.

    Args:
        recipe_sha256: hash of the cell's recipe.

    >>> import tempfile
    >>> from unittest import mock
    >>> with mock.patch.dict("os.environ", {"BASEREWARD_RUNS": tempfile.mkdtemp()}):
    ...     with training_lock("0" * 64):
    ...         is_in_training("0" * 64)
    ...     is_in_training("0" * 64)
    True
    False
    """
    with acquire_shared(_lease_folder(recipe_sha256 + TRAINING), wait=True):
        yield


def is_in_training(recipe_sha256: str) -> bool:
    """Whether a live process holds the lease of the training of a recipe."""
    holder = shared_holder(_lease_folder(recipe_sha256 + TRAINING))
    return holder is not None and holder.is_live


def _lease_folder(name: str) -> Path:
    return state_folder(runs_root() / ".leases") / name


_run_leases: dict[Path, SharedLease] = {}
"""The leases of this process, by run folder."""


def lock_run(run: RunFolder) -> bool:
    """Hold the lease of a run until `unlock_run`, or until the process ends.

    Pipes, devices and folders in the place of the run's files are set aside.

    Returns:
        Whether this call took the lease; false when another process, or an earlier call here, holds it.

    >>> import tempfile
    >>> run = RunFolder(Path(tempfile.mkdtemp()))
    >>> lock_run(run), lock_run(run)
    (True, False)
    >>> unlock_run(run)
    """
    lease = acquire_shared(run.lease, wait=False)
    if lease is None:
        return False
    _run_leases[run.path] = lease
    run.set_aside_obstacles()
    return True


def check_run_lock(run: RunFolder) -> None:
    """Check that this process has not lost the lease of a run; does nothing for a run that it has not locked.

    Raises:
        LostLeaseError: another process has taken it, and writes into the folder now.

    >>> check_run_lock(RunFolder(Path("/not/locked")))
    """
    lease = _run_leases.get(run.path)
    if lease is not None and not lease.is_held:
        raise LostLeaseError(
            f"run '{run.run_id}' has been taken over by another process, because this one was silent for too long: it "
            "was suspended, or its file system did not answer. This process stops and leaves the run as it is"
        )


def unlock_run(run: RunFolder) -> None:
    """Release the lease of a run; does nothing when this process does not hold it.

    >>> unlock_run(RunFolder(Path("/not/locked")))
    """
    lease = _run_leases.pop(run.path, None)
    if lease is not None:
        lease.release()


def lock_earlier(*, kind: RunKind, name: str, text: str, asked: RunFolder | None = None) -> RunFolder | None:
    """The folder of an earlier sweep or pipeline with the same content, so that its runs keep their parent.

    Args:
        kind: `sweep` or `pipeline`.
        name: of the experiment.
        text: as of `RunFolder.recipe_text`.
        asked: the folder that a user wants to resume, which is taken before newer ones.

    Returns:
        The folder, which this process has locked and marked as running; None if there is none, or it is in use.
    """
    for run in [*([] if asked is None else [asked]), *list_runs(kind=kind)]:
        if run.name == name and run.recipe_text() == text and lock_run(run):
            # Another process may have taken it between the listing and the lock; then its state is "running" here.
            if run.state != "running":
                run.mark("running")
                return run
            unlock_run(run)
    return None
