"""Delivers what runs that are over could not: the server was away, or they were killed."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from basereward.train.outbox import Outbox
from basereward.train.runs import RunFolder, list_runs

log = logging.getLogger(__name__)

LIMIT_S = 20.0


def deliver_pending(root: Path | None = None, *, limit_s: float = LIMIT_S) -> dict[str, bool]:
    """Deliver what is left of all runs in a folder that are over; which had something left, and whether it all went.

    A run whose process died is marked as killed, here and in MLflow. Parents go before their children. Costs next to
    nothing when nothing is left. A server that does not answer is given `limit_s`, once.
    """
    results: dict[str, bool] = {}
    away: set[str] = set()
    for folder in reversed(list_runs(kind=None, root=root)):
        outbox = folder.outbox
        killed = folder.state == "killed"
        if (killed or outbox.pending) and folder.state != "running" and outbox.journal.exists() and outbox.acquire():
            try:
                if killed:
                    _mark_killed(folder, outbox)
                if outbox.pending:
                    results[folder.run_id] = _deliver(outbox, away, limit_s)
            finally:
                outbox.release()
    delivered = sum(results.values())
    if delivered:
        log.info("Delivered to MLflow what was left of %d earlier runs.", delivered)
    if delivered < len(results):
        log.warning("MLflow has still not got all records of %d earlier runs.", len(results) - delivered)
    return results


def _mark_killed(folder: RunFolder, outbox: Outbox) -> None:
    """Say in both places that the run was killed, at the time of its last record, once."""
    if folder.status["state"] != "running":
        return
    ended = int(outbox.journal.stat().st_mtime * 1000)
    outbox.append([{"kind": "finish", "status": "KILLED", "time": ended}])
    folder.mark("killed", error="the process was killed")


def _deliver(outbox: Outbox, away: set[str], limit_s: float) -> bool:
    from basereward.train.mlflow_store import courier, load_mlflow, masked
    from basereward.train.worker import Worker

    uri = outbox.read(0)[0][0]["uri"]
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
