"""What the command line and the package's public names call."""

from __future__ import annotations

from typing import Any

from basereward.inference.score_file import load, score
from basereward.runs.run_folder import list_runs
from basereward.sweeps.sweep import sweep
from basereward.training.build import build
from basereward.training.fit import train

__all__ = ["build", "load", "runs", "score", "sweep", "train"]


def runs() -> list[dict[str, Any]]:
    """All runs, the newest first, as name and summary."""
    return [{"name": run.run_id, "summary": f"{run.name}, {run.state}"} for run in list_runs()]
