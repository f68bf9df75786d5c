"""What the command line and the package's public names call."""

from __future__ import annotations

from typing import Any

from basereward.train.build import build
from basereward.train.fit import train
from basereward.train.runs import list_runs
from basereward.train.score import load, score
from basereward.train.sweep import sweep

__all__ = ["build", "load", "runs", "score", "sweep", "train"]


def runs() -> list[dict[str, Any]]:
    """All runs, the newest first, as name and summary."""
    return [{"name": run.run_id, "summary": f"{run.name}, {run.state}"} for run in list_runs()]
