"""Uploads what ended runs left in their journals: the server was unreachable, or the run was killed."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from basereward.errors import RunError, format_count
from basereward.io.secrets import redact
from basereward.runs.run_folder import RunFolder, list_runs
from basereward.runs.tracking.journal import RunJournal, warn_once

log = logging.getLogger(__name__)

LIMIT_S = 20.0
"""Seconds without progress after which a server counts as unreachable for this call."""


def deliver_pending(root: Path | None = None, *, limit_s: float = LIMIT_S) -> dict[str, bool]:
    """Upload the pending records of all ended runs in a folder.

    A run whose process died is marked in its folder and in MLflow: with the end that its journal holds, else as
    killed. Every journal gets an end, so that no run stays RUNNING in MLflow. Parents are uploaded before their
    children. The call costs next to nothing when nothing is pending. A broken run folder is named in a warning and
    skipped.

    Args:
        root: the folder of the runs.
        limit_s: seconds without progress after which a server is given up, once for all runs.

    Returns:
        Run ids that had pending records; whether all of them are uploaded now.
    """
    results: dict[str, bool] = {}
    unreachable: set[str] = set()
    # The oldest first, so that parents exist on the server before their children.
    for folder in reversed(list_runs(kind=None, root=root)):
        try:
            delivered = _settle(folder, unreachable, limit_s)
        except (OSError, RunError) as error:
            warn_once(f"The pending records of run {folder.run_id} cannot be uploaded: {redact(str(error))}")
            continue
        if delivered is not None:
            results[folder.run_id] = delivered
    num_delivered = sum(results.values())
    if num_delivered:
        log.info("Uploaded the pending records of %s to MLflow.", format_count(num_delivered, "earlier run"))
    if num_delivered < len(results):
        runs = format_count(len(results) - num_delivered, "earlier run")
        log.warning("MLflow still lacks records of %s. They are kept in the folders; a later call uploads them.", runs)
    return results


def _settle(folder: RunFolder, unreachable: set[str], limit_s: float) -> bool | None:
    """Close and upload the journal of an ended run; None when there is nothing to upload."""
    journal = folder.journal
    if not _is_over(folder):
        return None
    if folder.status["state"] != "running" and (not journal.file.exists() or (journal.closed and not journal.pending)):
        return None
    if not journal.acquire():
        return None
    try:
        # Another process resumed it before the lock was ours.
        if not _is_over(folder):
            return None
        _close(folder, journal)
        return _upload(journal, unreachable, limit_s) if journal.pending else None
    finally:
        journal.release()


def _is_over(folder: RunFolder) -> bool:
    return folder.state != "running"


def _close(folder: RunFolder, journal: RunJournal) -> None:
    """Append the end to the journal of an ended run, at the time of its last record, and mark the folder."""
    state = folder.state
    # Another process is resuming the run and uploads its journal itself.
    if state == "running":
        return
    if journal.start() is not None and not journal.closed:
        ended_ms = int(journal.file.stat().st_mtime * 1000)
        journal.append([{"kind": "finish", "status": state.upper(), "time": ended_ms}])
    if folder.status["state"] == "running":
        folder.mark(state, error="the process was killed" if state == "killed" else None)


def _upload(journal: RunJournal, unreachable: set[str], limit_s: float) -> bool:
    # MLflow takes seconds to import, and most calls have nothing to upload.
    from basereward.runs.tracking.mlflow_store import load_mlflow, masked, mlflow_uploader
    from basereward.runs.tracking.upload_worker import UploadWorker

    start = journal.start()
    assert start is not None, "a journal without its first record has nothing pending"
    uri = str(start["uri"])
    if uri in unreachable:
        return False
    load_mlflow()
    began = time.monotonic()
    worker = UploadWorker(mlflow_uploader(journal), address=masked(uri))
    worker.start(wait_s=limit_s)
    delivered = worker.drain(limit_s=max(0.0, limit_s - (time.monotonic() - began)))
    if not delivered:
        unreachable.add(uri)
    return delivered
