"""Time the answers to mistakes of a new user, each in a new process.

    python -m bench.answers
    python -m bench.answers --rounds 5

The mistakes are those of `tests/helpers/mistakes.py`. Prints the fastest of some rounds, and the status: 2 is right.
CPU seconds depend less on what else runs.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.helpers.mistakes import MISTAKES, Mistake, environment_of, write_files

LIMITS_S = {False: 1.0, True: 5.0}
"""Seconds within which a mistake should be answered, by whether files must be read to see it."""


def answer_s(mistake: Mistake, folder: Path, *, rounds: int) -> tuple[float, float, int]:
    """The seconds of the fastest process from its start to its end, its least CPU seconds, and its exit status."""
    command = [sys.executable, "-m", "basereward", *mistake.words]
    seconds, cpu_s, status = float("inf"), float("inf"), 0
    for _ in range(rounds):
        began, cpu_began = time.perf_counter(), _cpu_of_children()
        completed = subprocess.run(
            command, cwd=folder, env=environment_of(mistake, folder), capture_output=True, check=False
        )
        seconds, status = min(seconds, time.perf_counter() - began), completed.returncode
        cpu_s = min(cpu_s, _cpu_of_children() - cpu_began)
    return seconds, cpu_s, status


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Prints one row for each mistake, and the slowest of each kind."""
    parser = argparse.ArgumentParser(prog="python -m bench.answers", description="time the answers to mistakes")
    parser.add_argument("--rounds", type=int, default=3, help="processes for each mistake (default: 3)")
    rounds = parser.parse_args().rounds
    slowest = dict.fromkeys(LIMITS_S, 0.0)
    print("| mistake | seconds | CPU seconds | status |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        for name, mistake in MISTAKES.items():
            seconds, cpu_s, status = answer_s(mistake, Path(folder), rounds=rounds)
            slowest[mistake.looks_at_files] = max(slowest[mistake.looks_at_files], seconds)
            print(f"| {name} | {seconds:.2f} | {cpu_s:.2f} | {status} |", flush=True)
    for looks_at_files, seconds in slowest.items():
        kind = "files looked at" if looks_at_files else "no file"
        print(f"slowest with {kind}: {seconds:.2f} s; should be below {LIMITS_S[looks_at_files]:.0f} s")


if __name__ == "__main__":
    main()
