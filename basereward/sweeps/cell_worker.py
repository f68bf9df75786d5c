"""The process that trains cells of a sweep: `python -m basereward.sweeps.cell_worker PID`."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basereward.errors import BaseRewardError
from basereward.io.files import state_folder, write_state
from basereward.io.lease import LostLeaseError
from basereward.io.processes import this_rank
from basereward.io.progress import labelled
from basereward.recipe import recipe_from_yaml, recipe_sha256
from basereward.runs.locks import training_lock
from basereward.runs.run_folder import finished_with, resumable_with, runs_root
from basereward.sweeps.worker_loop import Work, serve

if TYPE_CHECKING:
    from basereward.training.probe_cache import ProbeCache


logger = logging.getLogger(__name__)

DECISION_POLL_S = 0.5


def main(pid: str, trust: str = "") -> int:
    """Train cells that are given as JSON, and write the results of `train_task`, until the input ends.

    Args:
        pid: process number of the parent.
        trust: see `serve`.

    Returns:
        The exit code.
    """
    return serve(_load, pid=pid, trust=trust, prepare=import_trainer)


def train_task(
    task: str, *, parent: str, resume: str | None = None, probe_cache: ProbeCache | None = None
) -> dict[str, Any]:
    """Train the cell of a job in this process. A launcher of another machine calls it there.

    When another process trains the cell, its end is waited for, and the result is that of its run. So each cell is
    trained once, whatever jobs a cluster starts again or keeps from an earlier sweep.

    Args:
        task: `CellJob.task`.
        parent: `CellJob.parent`.
        resume: `CellJob.resume`; the newest interrupted run of the recipe counts, which may be a later one.
        probe_cache: data and backbone of earlier probes of this process.

    Returns:
        The result of `basereward.rl.train.train`, which is that of the job's `CellOutcome`.

    Raises:
        BaseRewardError: the cell failed.
    """
    from basereward.rl.train import train

    cell = json.loads(task)
    recipe = recipe_from_yaml(cell["recipe"])
    sha256 = recipe_sha256(recipe)

    def train_from(run_id: str | None) -> dict[str, Any]:
        named = {"parent": parent, "title": cell["title"], "axes": cell["axes"]}
        with labelled(cell["label"]):
            return train(recipe, resume=run_id, shared=probe_cache, **named)

    if not this_rank().is_first:
        # The first process decides for all that srun has started.
        decision = _await_decision(sha256)
        return {} if decision["finished"] else train_from(decision["resume"])
    while True:
        with training_lock(sha256):
            finished = finished_with(sha256)
            result = finished.result() if finished is not None else None
            interrupted = resumable_with(sha256)
            run_id = interrupted.run_id if interrupted is not None else None
            _decide(sha256, finished=result is not None, resume=run_id)
            if result is not None:
                return result
            try:
                return train_from(run_id)
            except LostLeaseError as error:
                # This machine was silent for too long. Another one has the run, and the loop waits for its result.
                logger.warning("%s", error)


def _decision_file(sha256: str) -> Path:
    """Where the processes of a job agree: a file of this start of the job, which SLURM may start again."""
    start = "-".join(os.environ.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"))
    return runs_root() / ".jobs" / f"{sha256[:16]}-{start}.json"


def _decide(sha256: str, *, finished: bool, resume: str | None) -> None:
    """Tell the other processes of this job what to do."""
    if this_rank().starter == "slurm":
        file = _decision_file(sha256)
        state_folder(file.parent)
        write_state(file, json.dumps({"finished": finished, "resume": resume}))


def _await_decision(sha256: str) -> dict[str, Any]:
    file = _decision_file(sha256)
    # SLURM ends this process when the first one is gone.
    while not file.exists():
        time.sleep(DECISION_POLL_S)
    decision: dict[str, Any] = json.loads(file.read_text())
    return decision


def import_trainer(task: str) -> None:
    """Import what trains a cell, such as TRL, so that forked processes of later cells have it too.

    Args:
        task: `CellJob.task`.
    """
    from basereward.rl.train import trainer_of

    # The process of the cell has the same error, and reports it.
    with contextlib.suppress(BaseRewardError, ImportError):
        trainer_of(recipe_from_yaml(json.loads(task)["recipe"]))


def _load() -> Work:
    # Imported here and not above: this takes seconds, in which `serve` already watches for the end of the parent. A
    # task would import it too, but then the time would be added to the first cell, or to every forked cell.
    import basereward.training.fit  # noqa: F401
    from basereward.runs.tracking.mlflow_store import load_store
    from basereward.training.probe_cache import ProbeCache

    load_store()

    # Lives as long as the process, so that the probes of a sweep read the data and load the backbone once.
    probe_cache = ProbeCache()

    def work(task: str, parent: str, resume: str | None) -> dict[str, Any]:
        return train_task(task, parent=parent, resume=resume, probe_cache=probe_cache)

    return work


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
