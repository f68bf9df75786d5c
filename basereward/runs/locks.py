"""Leases on recipes and on runs.

Several sweeps may share one folder of runs. The lease of a cell lets one of them train it; the lease of a run keeps two
processes from writing into the same run folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from basereward.io.files import state_folder
from basereward.io.lease import Lease, acquire
from basereward.runs.run_folder import RunFolder, runs_root


@contextlib.contextmanager
def cell_lock(recipe_sha256: str, *, wait: bool) -> Iterator[bool]:
    """Hold the lease of a recipe until the end of the block, or until the process ends.

    Args:
        recipe_sha256: hash of the cell's recipe.
        wait: block while another process holds the lease.

    Yields:
        Whether this process holds the lease; always true with `wait`.

    >>> import tempfile
    >>> from unittest import mock
    >>> with mock.patch.dict("os.environ", {"BASEREWARD_RUNS": tempfile.mkdtemp()}):
    ...     with cell_lock("0" * 64, wait=False) as is_ours, cell_lock("0" * 64, wait=False) as is_ours_again:
    ...         is_ours, is_ours_again
    (True, False)
    """
    # The name of the folder is kept from earlier versions, so that a sweep of one of them shares the locks.
    folder = state_folder(runs_root() / ".claims")
    lease = acquire(folder / recipe_sha256, wait=wait)
    if lease is None:
        yield False
        return
    with lease:
        yield True


_run_leases: dict[Path, Lease] = {}
"""The leases of this process, by run folder. A lock that belongs to the process cannot exclude a second call here."""


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
    if run.path in _run_leases:
        return False
    # The lock belongs to the process: a data-loader worker that is forked later can outlive its parent by some
    # seconds, and would keep a descriptor's lock for so long.
    lease = acquire(run.path / ".lock", wait=False, owner="process")
    if lease is None:
        return False
    _run_leases[run.path] = lease
    run.set_aside_obstacles()
    return True


def unlock_run(run: RunFolder) -> None:
    """Release the lease of a run; does nothing when this process does not hold it.

    >>> unlock_run(RunFolder(Path("/not/locked")))
    """
    lease = _run_leases.pop(run.path, None)
    if lease is not None:
        lease.release()
