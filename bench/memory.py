"""Measure the memory of a training step above the memory before it: tree rows, and one sequence per response.

    python -m bench.memory [--work FOLDER] [--workload pairs]

Each layout runs in a process of its own: a step to warm up, then the resident memory before a second step and its
peak during that step, as Linux counts them (VmRSS, and VmHWM after a reset).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.timing import quiet_stdout


def resident(key: str) -> float:
    """Resident memory of this process in MiB: `VmRSS`, the present one, or `VmHWM`, its peak since the last reset.

    >>> resident("VmRSS") > 1
    True
    """
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) / 1024


def measure(work: Path, workload: str, *, layout: str) -> float:
    """Peak memory of a step minus the memory before it, in MiB."""
    from bench.step import Bench

    with quiet_stdout():
        bench = Bench(work, workload)
        # Two groups, the step that the table names.
        groups = [group for _, group in zip(range(2), bench.groups(), strict=False)]
        batch = bench.batch(groups, layout=layout)  # type: ignore[arg-type]  # one of the two
        bench.step(batch)
        resident_before = resident("VmRSS")
        # 5 resets VmHWM, the peak of the process, see proc(5).
        Path("/proc/self/clear_refs").write_text("5")
        bench.step(batch)
        return resident("VmHWM") - resident_before


def main() -> int:
    """Prints one Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory")
    parser.add_argument("--work", type=Path, help="folder for rows and checkpoint (default: a temporary one)")
    parser.add_argument("--workload", default="pairs")
    parser.add_argument("--layout", choices=("tree", "plain"), help="measure this layout only and print MiB")
    args = parser.parse_args()
    if args.layout:
        print(json.dumps(measure(args.work, args.workload, layout=args.layout)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).resolve()
        store = {"BASEREWARD_RUNS": str(work / "runs"), "MLFLOW_TRACKING_URI": f"sqlite:///{work / 'mlflow.db'}"}
        # Small pieces of freed memory go back at once, or the peak of an earlier step would hide that of a later one.
        settings = os.environ | store | {"OMP_NUM_THREADS": "2", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}
        peaks = {}
        for layout in ("tree", "plain"):
            command = [sys.executable, "-m", "bench.memory", "--work", str(work), "--workload", args.workload]
            process = subprocess.run([*command, "--layout", layout], env=settings, check=True, capture_output=True)
            peaks[layout] = json.loads(process.stdout.splitlines()[-1])
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores\n")
    print("| a step of two groups | tree / plain | tree, MiB | plain, MiB |")
    print("|---|---|---|---|")
    print(f"| {args.workload} | {peaks['tree'] / peaks['plain']:.2f} | {peaks['tree']:.0f} | {peaks['plain']:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
