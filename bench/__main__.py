"""Time our layouts, and the other trainers whose environments are given, on the same work, in turns.

make bench                                      our tree and plain layouts
make bench ARGS="--workloads pairs --steps 12"
MS_SWIFT_PYTHON=S/bin/python:S2/bin/python TRL_PYTHON=W/bin/python make bench ARGS="--rounds 3"
make bench ARGS="--gpu 7b"                      random weights in the shapes of Qwen2.5-VL-7B, on one NVIDIA GPU
make bench ARGS="--gpu 7b --full"               all weights but those of the vision tower trained
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
from bench.table import Results, table

ROOT = Path(__file__).resolve().parents[1]
WORKLOADS = ("pairs", "groups", "text", "short")


@dataclass(frozen=True)
class Trainer:
    """A program that times itself: `python -m MODULE ARGS`, on the workloads that it can do.

    >>> TRAINERS[0].name, TRAINERS[0].args
    ('tree', ('--layout', 'tree'))
    """

    name: str
    # Of every environment that it is timed in; empty when it is not installed.
    pythons: tuple[str, ...]
    module: str
    args: tuple[str, ...] = ()
    can: tuple[str, ...] = WORKLOADS


def _pythons(variable: str) -> tuple[str, ...]:
    """The Pythons that an environment variable names, separated as in PATH."""
    return tuple(filter(None, os.environ.get(variable, "").split(os.pathsep)))


TRAINERS = (
    Trainer("tree", (sys.executable,), "bench.ours", ("--layout", "tree")),
    Trainer("plain", (sys.executable,), "bench.ours", ("--layout", "plain")),
    Trainer("ms-swift", _pythons("MS_SWIFT_PYTHON"), "bench.peers.ms_swift"),
    # TRL's reward trainer reads no images.
    Trainer("TRL", _pythons("TRL_PYTHON"), "bench.peers.trl", can=("text", "short")),
)


@dataclass(frozen=True)
class Work:
    """The inputs of all trainers.

    >>> Work(Path("work"), gpu=None, options=()).checkpoint("text").name
    'text_model'
    """

    # Of rows and checkpoints.
    folder: Path
    # Shapes of the checkpoint that trains on a GPU; None: the small ones, on the CPU.
    gpu: str | None
    options: tuple[str, ...]

    def checkpoint(self, workload: str) -> Path:
        """The folder of the checkpoint that trains on a workload."""
        if self.gpu is not None:
            return self.folder / f"{self.gpu}_model"
        return self.folder / ("image_model" if workload in workloads.WITH_IMAGES else "text_model")

    def prepare(self) -> None:
        """Writes the workloads and the checkpoints, unless an earlier call left them there."""
        for name in WORKLOADS:
            folder = self.checkpoint(name)
            if not (folder / "tokenizer.json").exists():
                text_only = self.gpu is None and name not in workloads.WITH_IMAGES
                checkpoint.write(folder, shapes=self.gpu or checkpoint.SMALL, text_only=text_only)
        workloads.write(self.folder)


def measure(trainer: Trainer, python: str, workload: str, work: Work) -> dict[str, Any] | None:
    """Runs one trainer in a process of its own; None when it fails, with the end of its log on standard error."""
    inputs = ("--checkpoint", str(work.checkpoint(workload)), "--rows", str(work.folder / f"{workload}.jsonl"))
    command = [python, "-m", trainer.module, *trainer.args, *inputs, *work.options]
    store = {
        "BASEREWARD_RUNS": str(work.folder / "runs"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{work.folder / 'mlflow.db'}",
    }
    # Every trainer gets the same threads, and none may wait for the network.
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | store | offline, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        end = "\n".join(done.stderr.splitlines()[-20:])
        print(f"{trainer.name} failed on {workload}:\n{end}", file=sys.stderr)
        return None
    # The last line: libraries may print before it.
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{workload:7} {trainer.name:9} {json.dumps(result)}", file=sys.stderr, flush=True)
    return result


def time_trainers(work: Work, *, chosen: list[str], trainers: list[str], rounds: int) -> tuple[Results, bool]:
    """Time all trainers, each in all of its environments.

    Trainers take turns within a round, so that a machine that slows down slows all of them.

    Returns:
        The figures of every round, by workload and trainer, of the environment in which the trainer is fastest on the
        workload; and whether every trainer could be timed.
    """
    results: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    complete = True
    for _ in range(rounds):
        for workload in chosen:
            for trainer in TRAINERS:
                if trainer.name not in trainers or workload not in trainer.can:
                    continue
                for python in trainer.pythons:
                    result = measure(trainer, python, workload, work)
                    if result is None:
                        complete = False
                    else:
                        results.setdefault((workload, trainer.name, python), []).append(result)
    return _fastest(results), complete


def _fastest(results: dict[tuple[str, str, str], list[dict[str, Any]]]) -> Results:
    """Of each trainer's environments on a workload, the figures of the one with the highest median speed."""
    fastest: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (workload, name, _), figures in results.items():
        known = fastest.get((workload, name))
        if known is None or _median_speed(figures) > _median_speed(known):
            fastest[workload, name] = figures
    return fastest


def _median_speed(figures: list[dict[str, Any]]) -> float:
    return float(statistics.median(figure["pairs_per_s"] for figure in figures))


def _machine(gpu: bool) -> str:
    if not gpu:
        return f"{platform.machine()}, {os.cpu_count()} cores, two threads, float32"
    import torch

    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bfloat16"


def build_parser() -> argparse.ArgumentParser:
    """The options of the command.

    >>> build_parser().parse_args(["--steps", "12"]).steps
    12
    """
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="what is trained on (default: all)"
    )
    names = [trainer.name for trainer in TRAINERS]
    parser.add_argument("--trainers", nargs="+", choices=names, default=names, help="what is timed (default: all)")
    parser.add_argument(
        "--steps",
        type=int,
        default=8,
        help="optimizer steps of a run, of which the first two are not timed (default: 8)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=1,
        help="runs of each trainer; results are medians with the smallest and the largest (default: 1)",
    )
    parser.add_argument("--vision", action="store_true", help="train adapters on the vision tower and its merger too")
    parser.add_argument("--responses", type=int, default=4, help="responses of one optimizer step (default: 4)")
    sizes = [name for name in checkpoint.SHAPES if name != checkpoint.SMALL]
    parser.add_argument(
        "--gpu", choices=sizes, help="train a model of this size on a GPU (default: a small one on the CPU)"
    )
    parser.add_argument(
        "--full", action="store_true", help="train all weights except those of the vision tower; needs --gpu"
    )
    parser.add_argument("--work", type=Path, help="folder for rows, checkpoints and runs (default: a temporary one)")
    return parser


def trainer_options(args: argparse.Namespace) -> tuple[str, ...]:
    """The options that every trainer gets, from those of this command.

    >>> trainer_options(build_parser().parse_args(["--vision"]))
    ('--steps', '8', '--responses', '4', '--vision')
    """
    options = ["--steps", str(args.steps), "--responses", str(args.responses)]
    if args.vision:
        options.append("--vision")
    if args.gpu is not None:
        options.append("--gpu")
        if args.full:
            options.append("--full")
    return tuple(options)


def main() -> int:
    """Exits with 1 when a trainer could not be timed."""
    args = build_parser().parse_args()
    if args.gpu is not None:
        # The other trainers are timed on the CPU only.
        args.trainers = [name for name in args.trainers if name in ("tree", "plain")]
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.work or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        work = Work(folder, args.gpu, trainer_options(args))
        work.prepare()
        measured, complete = time_trainers(work, chosen=args.workloads, trainers=args.trainers, rounds=args.rounds)
    print(f"{datetime.date.today()}, {_machine(args.gpu is not None)}\n")
    print(table(measured, workloads=args.workloads, trainers=[trainer.name for trainer in TRAINERS]))
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
