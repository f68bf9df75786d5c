"""Measures work on a device; a GPU may still be computing when the call that started the work has returned."""

from __future__ import annotations

import time
from typing import Any

import torch


class Stopwatch:
    """Measures from its construction to `stop`, by the clock of the device.

    >>> watch = Stopwatch(torch.device("cpu"))
    >>> watch.stop()
    >>> 0 <= watch.ms < 1000
    True
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._start = self._mark()
        self._end: Any = None

    def stop(self) -> None:
        """Marks the end of the work; on a GPU it does not wait for the work."""
        self._end = self._mark()

    @property
    def ms(self) -> float:
        """Milliseconds between construction and `stop`; waits until the device has finished the work."""
        if not self._on_gpu:
            return 1000 * float(self._end - self._start)
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end))

    def _mark(self) -> Any:
        """The time now; on a GPU an event in its queue, because the clock of the CPU knows nothing of queued work."""
        if not self._on_gpu:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
