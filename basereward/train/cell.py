"""The process of one cell of a sweep: `python -m basereward.train.cell RECIPE.yaml RESULT.json SWEEP PID [RUN]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from basereward.recipe import recipe_from_yaml
from basereward.train.child import answer


def main(recipe: str, result: str, sweep: str, pid: str, resume: str = "") -> int:
    """Trains the recipe and writes what `train` returned, or the error, to the file `result`."""

    def work() -> dict[str, Any]:
        from basereward.train.fit import train  # seconds, in which the parent may be gone already

        return train(recipe_from_yaml(Path(recipe)), resume=resume or None, parent=sweep)

    return answer(work, result, pid=pid)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
