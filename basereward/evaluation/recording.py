"""What is found out about a model after its run goes to the run's record."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from basereward.errors import RunError
from basereward.runs.run_folder import RunFolder
from basereward.runs.tracking.tracker import Tracker, deliver_pending, now_ms

logger = logging.getLogger(__name__)


def record(run: RunFolder, values: Mapping[str, float], files: Iterable[Path], *, folder: str) -> None:
    """Adds numbers and files to the MLflow run of a run that has ended; the run stays as it ended.

    Numbers that are recorded again come after those before: their step is the time in milliseconds since 1970. A server
    that refuses or is away is told as a warning, since what was found out lies in files already.

    Args:
        folder: that the files get on the server.
    """
    deliver_pending()
    tracker = Tracker(run)
    try:
        tracker.start(experiment=run.name)
    except RunError as error:
        logger.warning("Nothing is added to the record of run %s: %s", run.run_id, error)
        return
    try:
        tracker.metrics(values, step=now_ms())
        for file in files:
            tracker.artifact(file, folder=folder, copy=True)
    finally:
        state = run.state
        tracker.finish("finished" if state == "running" else state)
