"""Delivers what runs that are over could not: the server was away, or they were killed."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from basereward.errors import RunError
from basereward.io.secrets import redact
from basereward.runs.tracking.journal import RunJournal, warn_once
from basereward.runs.run_folder import RunFolder, list_runs

log = logging.getLogger(__name__)

LIMIT_S = 20.0


def deliver_pending(root: Path | None = None, *, limit_s: float = LIMIT_S) -> dict[str, bool]:
    """Deliver what is left of all runs in a folder that are over; which had something left, and whether it all went.

    A run whose process died is marked, here and in MLflow: as killed, or as its record ends. A record without an end
    gets one, so that no run stays RUNNING in MLflow. Parents go before their children. Costs next to nothing when
    nothing is left. A server that does not answer is given `limit_s`, once. A broken folder is named and passed over.
    """
    results: dict[str, bool] = {}
    away: set[str] = set()
    for folder in reversed(list_runs(kind=None, root=root)):
        try:
            delivered = _settle(folder, away, limit_s)
        except (OSError, RunError) as error:
            warn_once(f"What is left of run {folder.run_id} cannot be delivered: {redact(str(error))}")
            continue
        if delivered is not None:
            results[folder.run_id] = delivered
    delivered_runs = sum(results.values())
    if delivered_runs:
        log.info("Delivered to MLflow what was left of %d earlier runs.", delivered_runs)
    if delivered_runs < len(results):
        log.warning("MLflow has still not got all records of %d earlier runs.", len(results) - delivered_runs)
    return results


def _settle(folder: RunFolder, away: set[str], limit_s: float) -> bool | None:
    """Close and deliver the record of a run that is over; None where there is nothing to deliver."""
    outbox = folder.outbox
    if not outbox.journal.exists() or not _is_over(folder):
        return None
    if folder.status["state"] != "running" and outbox.closed and not outbox.pending:
        return None
    if not outbox.acquire():
        return None
    try:
        if not _is_over(folder):  # it has gone on since
            return None
        _close(folder, outbox)
        return _deliver(outbox, away, limit_s) if outbox.pending else None
    finally:
        outbox.release()


def _is_over(folder: RunFolder) -> bool:
    return folder.state != "running"


def _close(folder: RunFolder, outbox: RunJournal) -> None:
    """Give the record of a run that is over its end, at the time of its last sign of life, and mark the folder."""
    state = folder.state
    if state == "running":  # another process has begun to go on with it
        return
    if outbox.start() is not None and not outbox.closed:
        ended = int(outbox.journal.stat().st_mtime * 1000)
        outbox.append([{"kind": "finish", "status": state.upper(), "time": ended}])
    if folder.status["state"] == "running":
        folder.mark(state, error="the process was killed" if state == "killed" else None)


def _deliver(outbox: RunJournal, away: set[str], limit_s: float) -> bool:
    from basereward.runs.tracking.mlflow_store import courier, load_mlflow, masked
    from basereward.runs.tracking.upload_worker import Worker

    start = outbox.start()
    assert start is not None, "a journal without its first record has nothing pending"
    uri = str(start["uri"])
    if uri in away:
        return False
    load_mlflow()
    began = time.monotonic()
    worker = Worker(courier(outbox), where=masked(uri))
    worker.start(wait_s=limit_s)
    delivered = worker.drain(limit_s=max(0.0, limit_s - (time.monotonic() - began)))
    if not delivered:
        away.add(uri)
    return delivered
