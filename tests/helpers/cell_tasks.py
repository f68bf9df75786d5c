"""Tasks of a Ray cluster in place of the training of a cell; each notes that it was begun."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

NOTES = "begun.txt"
"""A file in the folder of runs, with a line for each beginning."""


def note() -> None:
    """Write a line."""
    with Path(os.environ["BASEREWARD_RUNS"], NOTES).open("a") as notes:
        notes.write("begun\n")


def killed(task: str, parent: str, trust: bool, folder: str | None) -> dict[str, Any]:
    """End the process of the task."""
    note()
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def raising(task: str, parent: str, trust: bool, folder: str | None) -> dict[str, Any]:
    """Raise what is a bug and no error of a cell."""
    note()
    raise ZeroDivisionError("a bug")
