"""The process of one ensemble of a sweep: `python -m basereward.train.ensemble_cell TOLD RESULT.json SWEEP PID`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from basereward.recipe.schema import EnsembleRecipe
from basereward.train.child import answer


def main(told: str, result: str, sweep: str, pid: str, *_: str) -> int:
    """Makes and tests the ensemble and writes what `make_ensemble` returned, or the error, to the file `result`."""

    def work() -> dict[str, Any]:
        from basereward.train.ensemble import make_ensemble  # seconds, in which the parent may be gone already

        asked = json.loads(Path(told).read_text())
        recipe = EnsembleRecipe(**asked.pop("recipe"))
        return make_ensemble(recipe, parent=sweep, tested=True, **asked)

    return answer(work, result, pid=pid)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
