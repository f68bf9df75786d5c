"""The thread that keeps delivering an outbox while the run goes on."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from basereward.runs.tracking.uploader import Courier, describe

log = logging.getLogger(__name__)

INTERVAL_S = 2.0
RETRY_S = (1.0, 30.0)
"""Seconds between tries while the server is away: they double from the first to the last."""
LAST_TRY_S = 5.0


class Worker:
    """Delivers in the background until `drain` has seen all of it go, or given up; then lets go of the lock."""

    def __init__(self, courier: Courier, *, where: str) -> None:
        self._courier = courier
        self._where = where
        self._thread = threading.Thread(target=self._run, name="basereward-tracking", daemon=True)
        self._wake = threading.Event()
        self._tried = threading.Event()
        self._done = threading.Event()
        self._draining = False
        self._given_up = False
        self._progress = time.monotonic()
        self.error: Exception | None = None

    def start(self, *, wait_s: float) -> None:
        """Begin, and wait for the outcome of the first try, but not for ever; `error` holds it when it failed."""
        self._thread.start()
        self._tried.wait(wait_s)

    def drain(self, *, limit_s: float) -> bool:
        """Deliver what is left and end; whether all went.

        Waits as long as records go through or a file is on its way, and at most `limit_s` without either; less when the
        server has been away already.
        """
        patience = limit_s if self.error is None else min(limit_s, LAST_TRY_S)
        began = time.monotonic()
        self._draining = True
        self._wake.set()
        while not self._done.wait(0.02):
            uploading = self._courier.uploading and self.error is None
            if time.monotonic() - max(began, self._progress) > patience and not uploading:
                break
        self._given_up = True
        self._wake.set()
        self._done.wait(1.0)
        return not self._courier.outbox.pending

    def _run(self) -> None:
        delay = RETRY_S[0]
        try:
            while not self._given_up:
                try:
                    moved = self._courier.deliver()
                except Exception as error:  # noqa: BLE001 - whatever the server or its library does, the run goes on
                    self._fail(error)
                    self._rest(delay)
                    delay = min(delay * 2, RETRY_S[0] if self._draining else RETRY_S[1])
                    continue
                self._succeed(moved)
                delay = RETRY_S[0]
                if moved:
                    continue
                if self._draining and not self._courier.outbox.pending:
                    break
                self._rest(0.1 if self._draining else INTERVAL_S)
        finally:
            self._courier.outbox.release()
            self._tried.set()
            self._done.set()

    def _rest(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    def _fail(self, error: Exception) -> None:
        if self.error is None:
            folder: Path = self._courier.outbox.folder
            log.warning(
                "MLflow at %s does not answer (%s). The run goes on; its records are kept in %s and delivered later.",
                self._where,
                describe(error),
                folder,
            )
        self.error = error
        self._tried.set()

    def _succeed(self, moved: bool) -> None:
        if self.error is not None:
            log.info("MLflow at %s answers again; the records kept so far are on their way.", self._where)
        self.error = None
        if moved:
            self._progress = time.monotonic()
        self._tried.set()
