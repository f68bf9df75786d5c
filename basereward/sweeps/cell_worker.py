"""A process for cells of a sweep: `python -m basereward.sweeps.cell_worker PID`."""

from __future__ import annotations

import json
import sys
from typing import Any

from basereward.recipe import recipe_from_yaml
from basereward.sweeps.worker_process import Work, answer


def main(pid: str, trust: str = "") -> int:
    """Trains the cells that it is told, as JSON, and answers what `train` returns."""
    return answer(_begin, pid=pid, trust=trust)


def _begin() -> Work:
    from basereward.training.fit import train
    from basereward.training.probe_cache import ProbeCache

    shared = ProbeCache()

    def work(told: str, parent: str, resume: str | None) -> dict[str, Any]:
        asked = json.loads(told)
        recipe = recipe_from_yaml(asked["recipe"])
        return train(recipe, resume=resume, parent=parent, shared=shared, title=asked["title"], axes=asked["axes"])

    return work


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
