"""A process for cells of a sweep: `python -m basereward.train.cell PID`."""

from __future__ import annotations

import sys
from typing import Any

from basereward.recipe import recipe_from_yaml
from basereward.train.child import Work, answer


def main(pid: str, trust: str = "") -> int:
    """Trains the recipes that it is told, as YAML, and answers what `train` returns."""
    return answer(_begin, pid=pid, trust=trust)


def _begin() -> Work:
    from basereward.train.fit import train
    from basereward.train.shared import Shared

    shared = Shared()

    def work(told: str, parent: str, resume: str | None) -> dict[str, Any]:
        return train(recipe_from_yaml(told), resume=resume, parent=parent, shared=shared)

    return work


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
