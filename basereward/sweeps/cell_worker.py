"""The process that trains cells of a sweep: `python -m basereward.sweeps.cell_worker PID`."""

from __future__ import annotations

import json
import sys
from typing import Any

from basereward.recipe import recipe_from_yaml
from basereward.sweeps.worker_process import Work, serve


def main(pid: str, trust: str = "") -> int:
    """Train cells that are given as JSON, and write the results of `train`, until the input ends.

    Args:
        pid: process number of the parent.
        trust: see `serve`.

    Returns:
        The exit code.
    """
    return serve(_load, pid=pid, trust=trust)


def _load() -> Work:
    # Imported here and not above: this takes seconds, in which `serve` already watches for the end of the parent.
    from basereward.training.fit import train
    from basereward.training.probe_cache import ProbeCache

    # Lives as long as the process, so that the probes of a sweep read the data and load the backbone once.
    probe_cache = ProbeCache()

    def work(task_json: str, parent: str, resume: str | None) -> dict[str, Any]:
        task = json.loads(task_json)
        recipe = recipe_from_yaml(task["recipe"])
        return train(recipe, resume=resume, parent=parent, shared=probe_cache, title=task["title"], axes=task["axes"])

    return work


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
