"""A process for an ensemble of a sweep: `python -m basereward.sweeps.ensemble_worker PID`."""

from __future__ import annotations

import json
import sys
from typing import Any

from basereward.recipe.schema import EnsembleRecipe
from basereward.sweeps.worker_process import Work, answer


def main(pid: str, trust: str = "") -> int:
    """Makes and tests the ensembles that it is told, as JSON, and answers what `make_ensemble` returns."""
    return answer(_begin, pid=pid, trust=trust)


def _begin() -> Work:
    from basereward.training.ensembles.make import make_ensemble

    def work(told: str, parent: str, resume: str | None) -> dict[str, Any]:
        asked = json.loads(told)
        recipe = EnsembleRecipe(**asked.pop("recipe"))
        return make_ensemble(recipe, parent=parent, tested=True, **asked)

    return work


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
