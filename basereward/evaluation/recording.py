"""Add results to the MLflow record of a run that has ended."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from basereward.errors import RunError
from basereward.runs.run_folder import RunFolder
from basereward.runs.tracking.tracker import Tracker, deliver_pending, now_ms

logger = logging.getLogger(__name__)


def record(
    run: RunFolder, values: Mapping[str, float], files: Iterable[Path], *, folder: str, step: int | None = None
) -> None:
    """Add metrics and files to the MLflow run of a run that has ended. The state of the run does not change.

    A server that refuses or cannot be reached causes a warning only, because the results are in local files.

    Args:
        run: the run.
        values: metrics by name.
        files: local files.
        folder: of the files on the server.
        step: of the metrics, a time in milliseconds, so that a later result follows an earlier one; None: now. Metrics
            that the record has at this step already are not added again.
    """
    # What earlier commands could not deliver comes first, so that the server gets records in their order.
    deliver_pending()
    tracker = Tracker(run)
    try:
        tracker.start(experiment=run.name)
    except RunError as error:
        logger.warning("Nothing is added to the record of run %s: %s", run.run_id, error)
        return
    try:
        tracker.metrics(values, step=now_ms() if step is None else step)
        for file in files:
            tracker.artifact(file, folder=folder, copy=True)
    finally:
        state = run.state
        # A tracker cannot be left running; a run whose process was killed still says "running".
        tracker.finish("finished" if state == "running" else state)
