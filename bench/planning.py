"""Time the plan of a run of 2.85 million groups in the proportions of BaseReward's data, with synthetic lengths.

    python -m bench.planning

Every plan is made in a process of its own: seconds to build it, the longest of twenty looks at random places of its
three epochs, and the most memory that the process ever had, libraries included.
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import platform
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from basereward.data.batching.plan import Plan, StageSampler
from basereward.data.encoding.lengths import Lengths
from basereward.data.mixing.mixture import Mixture

# Groups of every source, and whether they have pictures.
SOURCES = {
    "r1": (2_000_000, True),
    "r2": (200_000, True),
    "r3": (83_000, True),
    "r4": (65_000, True),
    "t1": (378_000, False),
    "t2": (63_000, False),
    "t3": (63_000, False),
}
PLANS: dict[str, dict[str, Any]] = {
    "8 groups a pass": {},
    "16,384 tokens a pass": {"budget": 16384},
    "16,384 tokens a pass, pictures apart": {"budget": 16384, "modality": "separate"},
}
EPOCHS = 3
SEEKS = 20


def synthetic_lengths(groups: int, *, pictures: bool, seed: int) -> Lengths:
    """Random lengths of groups in tokens, at most 8,192; an image adds 1,024.

    >>> lengths = synthetic_lengths(3, pictures=False, seed=0)
    >>> len(lengths.tokens)
    3
    """
    rng = np.random.default_rng(seed)
    # A log-normal distribution: a median of 545 tokens and a long tail, since lengths of answers are skewed.
    tokens = rng.lognormal(6.3, 0.8, groups) + 1024 * pictures
    images = np.full(groups, int(pictures), np.int32)
    return Lengths(np.arange(groups), np.clip(tokens, 32, 8192).astype(np.int32), images)


def measure(settings: dict[str, Any]) -> tuple[float, float, float]:
    """Seconds to build, seconds of the slowest seek, peak GiB."""
    # Distinct seeds, so that no two sources have equal lengths.
    lengths = {
        name: synthetic_lengths(groups, pictures=pictures, seed=seed)
        for seed, (name, (groups, pictures)) in enumerate(SOURCES.items())
    }
    start = time.perf_counter()
    mixture = Mixture({name: groups for name, (groups, _) in SOURCES.items()})
    plan = Plan(mixture, groups=128, groups_per_forward=8, lengths=lengths, epochs=EPOCHS, **settings)
    build_s = time.perf_counter() - start
    seeks_s = []
    for position in np.random.default_rng(0).integers(len(plan.stage(0)), size=SEEKS).tolist():
        start = time.perf_counter()
        next(iter(StageSampler(plan, 0, rank=0, done=position)))
        seeks_s.append(time.perf_counter() - start)
    # Linux counts in KiB.
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return build_s, max(seeks_s), peak_gib


def main() -> int:
    """Prints one Markdown table."""
    context = multiprocessing.get_context("spawn")
    # A new process for each plan: the peak memory of a process never goes down.
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        rows = list(zip(PLANS, pool.map(measure, PLANS.values()), strict=True))
    groups = sum(size for size, _ in SOURCES.values())
    where = f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores"
    print(f"{where}, {groups:,} groups, {EPOCHS} epochs\n")
    print("| plan | built, s | slowest seek, s | peak memory, GiB |")
    print("|---|---|---|---|")
    for name, (build_s, seek_s, peak_gib) in rows:
        print(f"| {name} | {build_s:.2f} | {seek_s:.2f} | {peak_gib:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
