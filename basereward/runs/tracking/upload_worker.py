"""The thread that uploads a journal while the run continues."""

from __future__ import annotations

import logging
import threading
import time

from basereward.runs.tracking.uploader import Uploader, describe

log = logging.getLogger(__name__)

INTERVAL_S = 2.0
"""Seconds between looks for new records. A chart that lags by so much is live enough."""
RETRY_S = (1.0, 30.0)
"""Seconds between attempts while the server is unreachable; they double from the first value to the second."""
LAST_TRY_S = 5.0
"""Seconds that the end of a run waits for a server that was already unreachable."""
POLL_S = 0.02
DRAIN_INTERVAL_S = 0.1
STOP_LIMIT_S = 1.0
"""Seconds that `drain` waits for the thread after it gave up; a request may hang for much longer."""


class UploadWorker:
    """Uploads in the background until `drain` has seen everything uploaded, or gave up; then releases the lock.

    Args:
        uploader: of the journal whose lock this process holds.
        address: of the server, for messages; without a password.
    """

    def __init__(self, uploader: Uploader, *, address: str) -> None:
        self._uploader = uploader
        self._address = address
        # A daemon: a request that hangs must not keep the process from ending. The journal keeps what is left.
        self._thread = threading.Thread(target=self._run, name="basereward-tracking", daemon=True)
        self._wake = threading.Event()
        self._tried = threading.Event()
        self._done = threading.Event()
        self._draining = False
        self._gave_up = False
        self._last_progress = time.monotonic()
        self.error: Exception | None = None

    def start(self, *, wait_s: float) -> None:
        """Start the thread, and wait at most `wait_s` seconds for its first request; `error` holds its failure."""
        self._thread.start()
        self._tried.wait(wait_s)

    def drain(self, *, limit_s: float) -> bool:
        """Upload what is left, and end the thread.

        Waits while records are uploaded or a file is on its way, and at most `limit_s` seconds without either. The
        limit is shorter when the server was already unreachable.

        Returns:
            Whether everything is uploaded.
        """
        patience_s = limit_s if self.error is None else min(limit_s, LAST_TRY_S)
        began = time.monotonic()
        self._draining = True
        self._wake.set()
        while not self._done.wait(POLL_S):
            uploading_file = self._uploader.uploading_file and self.error is None
            idle_s = time.monotonic() - max(began, self._last_progress)
            if idle_s > patience_s and not uploading_file:
                break
        self._gave_up = True
        self._wake.set()
        self._done.wait(STOP_LIMIT_S)
        return not self._uploader.journal.pending

    def _run(self) -> None:
        delay = RETRY_S[0]
        try:
            while not self._gave_up:
                try:
                    progressed = self._uploader.upload_next()
                except Exception as error:  # noqa: BLE001 - whatever the server or its library does, the run continues
                    self._note_failure(error)
                    self._sleep(delay)
                    delay = min(delay * 2, RETRY_S[0] if self._draining else RETRY_S[1])
                    continue
                self._note_success(progressed)
                delay = RETRY_S[0]
                if progressed:
                    continue
                # While a parent is unknown on the server, a record is pending and nothing can be done about it.
                if self._draining and not self._uploader.journal.pending:
                    break
                self._sleep(DRAIN_INTERVAL_S if self._draining else INTERVAL_S)
        finally:
            self._uploader.journal.release()
            self._tried.set()
            self._done.set()

    def _sleep(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    def _note_failure(self, error: Exception) -> None:
        # One warning per outage: attempts repeat every few seconds.
        if self.error is None:
            log.warning(
                "MLflow at %s does not answer (%s). The run continues; its records are kept in %s and uploaded later.",
                self._address,
                describe(error),
                self._uploader.journal.folder,
            )
        self.error = error
        self._tried.set()

    def _note_success(self, progressed: bool) -> None:
        if self.error is not None:
            log.info("MLflow at %s answers again; the kept records are being uploaded.", self._address)
        self.error = None
        if progressed:
            self._last_progress = time.monotonic()
        self._tried.set()
