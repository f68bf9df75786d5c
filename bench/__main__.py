"""Time our layouts, and the trainers whose environments are named, on the same work in one sitting.

make bench                                      our tree and plain layouts
make bench ARGS="--workloads pairs --steps 12"
MS_SWIFT_PYTHON=S/bin/python TRL_PYTHON=W/bin/python make bench
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import checkpoint, workloads
from bench.table import table

ROOT = Path(__file__).resolve().parents[1]
WORKLOADS = ("pairs", "groups", "text", "short")


@dataclass(frozen=True)
class Trainer:
    """A program that times itself: `python -m MODULE ARGS`, on the workloads that it can do."""

    name: str
    python: str | None  # None: its environment is not here
    module: str
    args: tuple[str, ...] = ()
    can: tuple[str, ...] = WORKLOADS


TRAINERS = (
    Trainer("tree", sys.executable, "bench.ours", ("--layout", "tree")),
    Trainer("plain", sys.executable, "bench.ours", ("--layout", "plain")),
    Trainer("ms-swift", os.environ.get("MS_SWIFT_PYTHON"), "bench.peers.ms_swift"),
    Trainer("TRL", os.environ.get("TRL_PYTHON"), "bench.peers.trl", can=("text", "short")),  # it reads no images
)


def measure(trainer: Trainer, workload: str, *, work: Path, steps: int, vision: bool) -> dict[str, Any] | None:
    """Runs one trainer in a process of its own; None, and the end of its log on standard error, when it fails."""
    assert trainer.python is not None
    given = {"checkpoint": work / ("image_model" if workload in workloads.WITH_IMAGES else "text_model")}
    given |= {"rows": work / f"{workload}.jsonl"}
    command = [trainer.python, "-m", trainer.module, *trainer.args, "--steps", str(steps)]
    command += ["--vision"] if vision else []
    command += [word for name, value in given.items() for word in (f"--{name}", str(value))]
    store = {"BASEREWARD_RUNS": str(work / "runs"), "MLFLOW_TRACKING_URI": f"sqlite:///{work / 'mlflow.db'}"}
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | store | offline, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        end = "\n".join(done.stderr.splitlines()[-20:])
        print(f"{trainer.name} failed on {workload}:\n{end}", file=sys.stderr)
        return None
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{workload:7} {trainer.name:9} {json.dumps(result)}", file=sys.stderr, flush=True)
    return result


def prepare(work: Path) -> None:
    """Writes the workloads and the two checkpoints, unless an earlier call left them there."""
    for name, text_only in {"image_model": False, "text_model": True}.items():
        if not (work / name / "tokenizer.json").exists():
            checkpoint.write(work / name, text_only=text_only)
    workloads.write(work)


def sitting(
    work: Path, *, chosen: list[str], trainers: list[str], steps: int, rounds: int, vision: bool
) -> tuple[dict[tuple[str, str], float], bool]:
    """Preferences a second by (workload, trainer), the median of `rounds`; and whether every trainer could be timed.

    Trainers take turns within a round, so that a machine that slows down slows all of them.
    """
    taken: dict[tuple[str, str], list[float]] = {}
    there = [trainer for trainer in TRAINERS if trainer.python and trainer.name in trainers]
    turns = [(w, t) for _ in range(rounds) for w in chosen for t in there if w in t.can]
    for workload, trainer in turns:
        result = measure(trainer, workload, work=work, steps=steps, vision=vision)
        if result is not None:
            taken.setdefault((workload, trainer.name), []).append(result["pairs_per_s"])
    complete = sum(map(len, taken.values())) == len(turns)
    return {key: statistics.median(values) for key, values in taken.items()}, complete


def main() -> int:
    """Exits with 1 when a trainer could not be timed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    names = [trainer.name for trainer in TRAINERS]
    parser.add_argument("--trainers", nargs="+", choices=names, default=names)
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps; the first two are not counted")
    parser.add_argument("--rounds", type=int, default=1, help="times that every trainer gets its turn")
    parser.add_argument("--vision", action="store_true", help="adapters on the vision tower and its merger too")
    parser.add_argument("--work", type=Path, help="keeps rows, checkpoints and runs; default: a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (given.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        prepare(work)
        speed, complete = sitting(
            work,
            chosen=given.workloads,
            trainers=given.trainers,
            steps=given.steps,
            rounds=given.rounds,
            vision=given.vision,
        )
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, two threads, float32\n")
    print(table(speed, workloads=given.workloads, trainers=[trainer.name for trainer in TRAINERS]))
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
