"""Show how the cost of a training step grows: with groups in a row, and with the responses of a group.

    python -m bench.scaling [--work FOLDER] [--rounds 3]

A step is a forward and a backward pass over groups with a picture of 896 x 896 pixels. The fit is the straight line
that least squares draw through the seconds: the cost of a prefix, that of a branch, and how far a point lies off.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.encoding.encoder import EncodedGroup
from basereward.training.allocator import keep_freed_memory
from bench.step import Bench, of_size

RESPONSES = (1, 2, 4, 8, 16)
GROUPS = (1, 2, 4, 8)


def line(sizes: Sequence[int], seconds: Sequence[float]) -> tuple[float, float, float]:
    """Offset and slope of the line through the points, and the largest distance from it as a share of the point.

    >>> [round(value, 6) for value in line([1, 2, 4], [3.0, 5.0, 9.0])]
    [1.0, 2.0, 0.0]
    """
    slope, offset = np.polyfit(sizes, seconds, 1)
    off = np.abs(np.asarray(seconds) - (offset + slope * np.asarray(sizes))) / np.asarray(seconds)
    return float(offset), float(slope), float(off.max())


def measure(bench: Bench, batch_of: Callable[[int], TreeBatch], sizes: Sequence[int], *, rounds: int) -> list[float]:
    """Median seconds of a step for every size; sizes take turns."""
    batches = {size: batch_of(size) for size in sizes}
    # The first step allocates memory and is not measured.
    bench.step(batches[sizes[-1]])
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size, batch in batches.items():
            seconds[size].append(bench.step(batch))
    return [statistics.median(seconds[size]) for size in sizes]


def row(name: str, sizes: Sequence[int], seconds: Sequence[float]) -> str:
    """One line of the table.

    >>> row("groups", [1, 2], [3.0, 5.0])
    '| groups | 1: 3.00, 2: 5.00 | 1.00 + 2.000 n | 0% |'
    """
    offset, slope, off = line(sizes, seconds)
    points = ", ".join(f"{size}: {spent:.2f}" for size, spent in zip(sizes, seconds, strict=True))
    return f"| {name} | {points} | {offset:.2f} + {slope:.3f} n | {off:.0%} |"


def main() -> int:
    """Prints one Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling")
    parser.add_argument("--work", type=Path, help="folder for rows and checkpoint (default: a temporary one)")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    # As a training run does: glibc would return freed memory to the system after every call.
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).resolve()
        bench = Bench(work, "groups")
        groups: list[EncodedGroup] = [group for _, group in zip(range(max(GROUPS)), bench.groups(), strict=False)]
        first = groups[0]
        # The same group with more responses: images and prompt are read once, whatever the number.
        by_responses = measure(
            bench, lambda n: bench.batch([of_size(first, n)]), RESPONSES, rounds=args.rounds
        )  # fmt: skip
        by_groups = measure(bench, lambda n: bench.batch(groups[:n]), GROUPS, rounds=args.rounds)
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores\n")
    print("| n | seconds of a step | fit | farthest point |")
    print("|---|---|---|---|")
    print(row("responses of one group", RESPONSES, by_responses))
    print(row("groups of four in a row", GROUPS, by_groups))
    return 0


if __name__ == "__main__":
    sys.exit(main())
