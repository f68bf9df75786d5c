"""The process that makes ensembles of a sweep: `python -m basereward.sweeps.ensemble_worker PID`."""

from __future__ import annotations

import json
import sys
from typing import Any

from basereward.recipe.schema import EnsembleRecipe
from basereward.sweeps.worker_loop import Work, serve


def main(pid: str, trust: str = "") -> int:
    """Make and test ensembles that are given as JSON, and write the results of `make_ensemble`, until the input ends.

    Args:
        pid: process number of the parent.
        trust: see `serve`.

    Returns:
        The exit code.
    """
    return serve(_load, pid=pid, trust=trust)


def _load() -> Work:
    # Imported here and not above: this takes seconds, in which `serve` already watches for the end of the parent.
    from basereward.training.ensembles.make import make_ensemble

    def work(task_json: str, parent: str, resume: str | None) -> dict[str, Any]:
        task = json.loads(task_json)
        # An ensemble is made in one step, so that there is nothing to resume; `resume` is always None.
        recipe = EnsembleRecipe(**task.pop("recipe"))
        return make_ensemble(recipe, parent=parent, tested=True, **task)

    return work


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
