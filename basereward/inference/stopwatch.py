"""How long work takes on a device, which may still be at it when the call that began it has returned."""

from __future__ import annotations

import time
from typing import Any

import torch


class Stopwatch:
    """Runs from its making to `stop`, by the clock of the device.

    >>> watch = Stopwatch(torch.device("cpu"))
    >>> watch.stop()
    >>> 0 <= watch.ms < 1000
    True
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._began = self._mark()
        self._ended: Any = None

    def stop(self) -> None:
        self._ended = self._mark()

    @property
    def ms(self) -> float:
        """Milliseconds; asked for after `stop`, and waits until the device has come so far."""
        if not self._on_gpu:
            return 1000 * float(self._ended - self._began)
        self._ended.synchronize()
        return float(self._began.elapsed_time(self._ended))

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
