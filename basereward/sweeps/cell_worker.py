"""The process that trains cells of a sweep: `python -m basereward.sweeps.cell_worker PID`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from basereward.io.progress import labelled
from basereward.recipe import recipe_from_yaml
from basereward.sweeps.worker_process import Work, serve

if TYPE_CHECKING:
    from basereward.training.probe_cache import ProbeCache


def main(pid: str, trust: str = "") -> int:
    """Train cells that are given as JSON, and write the results of `train_task`, until the input ends.

    Args:
        pid: process number of the parent.
        trust: see `serve`.

    Returns:
        The exit code.
    """
    return serve(_load, pid=pid, trust=trust)


def train_task(
    task: str, *, parent: str, resume: str | None = None, probe_cache: ProbeCache | None = None
) -> dict[str, Any]:
    """Train the cell of a job in this process. A launcher of another machine calls it there.

    Args:
        task: `CellJob.task`.
        parent: `CellJob.parent`.
        resume: `CellJob.resume`.
        probe_cache: data and backbone of earlier probes of this process.

    Returns:
        The result of `basereward.training.fit.train`, which is that of the job's `CellOutcome`.

    Raises:
        BaseRewardError: the cell failed.
    """
    from basereward.training.fit import train

    cell = json.loads(task)
    recipe = recipe_from_yaml(cell["recipe"])
    with labelled(cell["label"]):
        return train(recipe, resume=resume, parent=parent, shared=probe_cache, title=cell["title"], axes=cell["axes"])


def _load() -> Work:
    # Imported here and not above: this takes seconds, in which `serve` already watches for the end of the parent. Tasks
    # import `fit` too, but then the time would count to the first cell.
    import basereward.training.fit  # noqa: F401
    from basereward.training.probe_cache import ProbeCache

    # Lives as long as the process, so that the probes of a sweep read the data and load the backbone once.
    probe_cache = ProbeCache()

    def work(task: str, parent: str, resume: str | None) -> dict[str, Any]:
        return train_task(task, parent=parent, resume=resume, probe_cache=probe_cache)

    return work


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
