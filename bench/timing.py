"""How every trainer here is timed: the wall clock between the ends of its optimizer steps.

Data loading between two steps counts, starting up does not. Standard library only, since other
trainers' environments import it too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

WARM_UP_STEPS = 2


@dataclass
class Clock:
    """Notes when steps end.

    >>> Clock(ends=[9.0, 12.0, 13.0, 15.0, 18.0]).step_s
    2.0
    """

    ends: list[float] = field(default_factory=list)

    def tick(self) -> None:
        """Call at the end of every optimizer step."""
        self.ends.append(time.perf_counter())

    @property
    def step_s(self) -> float:
        """Median seconds of a step; the first two steps warm up and are left out."""
        # A step lasts from the end of the one before to its own end, so that loading its batch counts.
        starts, ends = self.ends[WARM_UP_STEPS - 1 :], self.ends[WARM_UP_STEPS:]
        if not ends:
            raise SystemExit(f"{len(self.ends)} steps were timed; at least {WARM_UP_STEPS + 1} are needed")
        return statistics.median(end - start for start, end in zip(starts, ends, strict=False))


def arguments(
    description: str | None, *, more: tuple[str, ...] = (), flags: tuple[str, ...] = ()
) -> argparse.Namespace:
    """Parse the command line of a timed program.

    Args:
        description: for its help.
        more: further required options with a value.
        flags: further options without a value.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--responses", type=int, default=4)
    parser.add_argument("--vision", action="store_true", help="train adapters on the vision tower and its merger too")
    for name in more:
        parser.add_argument(f"--{name}", required=True)
    for name in flags:
        parser.add_argument(f"--{name}", action="store_true")
    return parser.parse_args()


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Sends what libraries print to standard error, those in C too: only the result is on standard output.

    >>> with quiet_stdout():
    ...     1 + 1
    2
    """
    sys.stdout.flush()
    # The descriptor, not `sys.stdout`: C libraries write to the descriptor.
    original = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(original, 1)
        os.close(original)


def report(trainer: str, clock: Clock, *, pairs: int, version: str, torch: str, **more: float) -> None:
    """Prints the one line of JSON.

    Args:
        pairs: preferences that one optimizer step learns from.
        more: what else was measured.
    """
    step_s = clock.step_s
    # Linux counts in KiB.
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result = {"trainer": trainer, "version": version, "torch": torch, "peak_gib": peak_gib, "step_s": step_s}
    result |= {"pairs_per_s": pairs / step_s, **more}
    print(json.dumps(result), flush=True)
