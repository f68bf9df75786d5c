"""Records what the machine does during a run: processors, memory, disk, network and GPUs."""

from __future__ import annotations

import logging
import threading
from collections import deque

from basereward.runs.tracking.mlflow_store import SYSTEM, system_monitors
from basereward.runs.tracking.tracker import Tracker, now_ms
from basereward.runs.tracking.uploader import describe

log = logging.getLogger(__name__)

FIRST = f"{SYSTEM}cpu_utilization_percentage"
"""A metric that every machine has; its last step tells how many samples an earlier process recorded."""


class SystemMetrics:
    """Samples in a thread of its own, from `start` to `stop`. The names are those of MLflow's own system metrics.

    The step of a sample is its number: samples are taken by the clock, and an optimizer step can take minutes. Samples
    before the first metric of the training are recorded after it, because MLflow's pages begin with the metric that
    came first.

    Args:
        tracker: gets the samples.
        every_s: seconds between samples.
    """

    def __init__(self, tracker: Tracker, *, every_s: float) -> None:
        self._tracker = tracker
        self._every_s = every_s
        self._stopped = threading.Event()
        self._samples: deque[tuple[int, int, dict[str, float]]] = deque()
        self._thread = threading.Thread(target=self._run, name="basereward-system-metrics", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; no sample is recorded after this returns."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        # Those of a run that fails before its first step are the ones that tell why.
        self._record()

    def _run(self) -> None:
        try:
            self._sample()
        except Exception as error:  # noqa: BLE001 - a driver or a container may refuse a reading; the run continues
            log.warning("the metrics of the system are not recorded any more: %s", describe(error))

    def _sample(self) -> None:
        monitors = system_monitors()
        # A rate is measured since the call before, and a first call has none.
        for monitor in monitors:
            monitor.collect_metrics()
            monitor.clear_metrics()
        step = self._tracker.last_step(FIRST)
        while not self._stopped.wait(self._every_s):
            step += 1
            values: dict[str, float] = {}
            for monitor in monitors:
                monitor.collect_metrics()
                values |= {f"{SYSTEM}{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
                monitor.clear_metrics()
            self._samples.append((step, now_ms(), values))
            if self._tracker.has_metrics:
                self._record()

    def _record(self) -> None:
        """Record the samples that wait for it."""
        while self._samples:
            step, time_ms, values = self._samples.popleft()
            self._tracker.metrics(values, step=step, time_ms=time_ms)
