"""Show what keeping the features of a frozen vision tower saves: a first epoch that computes them, a second that reads.

    python -m bench.features [--work FOLDER] [--steps 8]

Two pairs a step, on the workload `pairs`; the same steps are run twice by `trainer.fit`, as two epochs. The vision
tower is timed by itself within the steps of the first.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from basereward import build, load_recipe
from bench import checkpoint, workloads
from bench.ours import HERE, StepEnds, overrides
from bench.timing import WARM_UP_STEPS, Clock, quiet_stdout

GIB = 4.0


class Tower:
    """Counts and times the calls of a vision tower."""

    def __init__(self, tower: Any) -> None:
        self.seconds: list[float] = []
        self._began = 0.0
        tower.register_forward_pre_hook(self._start)
        tower.register_forward_hook(self._end)

    def _start(self, *_: Any) -> None:
        self._began = time.perf_counter()

    def _end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self._began)


def measure(work: Path, *, steps: int) -> tuple[list[float], list[float]]:
    """Seconds of every step of both epochs, and of every call of the vision tower."""
    model = work / "image_model"
    if not (model / "tokenizer.json").exists():
        checkpoint.write(model)
    rows = workloads.first_rows(work, "pairs", count=2 * steps)
    settings = overrides(model, rows, layout="tree", groups=2, steps=2 * steps)
    settings += [f"data.encoding.feature_cache={GIB}", "data.sources.rows.val=0.0", "trainer.validations=1"]
    clock = Clock()
    with quiet_stdout():
        recipe = load_recipe(str(HERE / "recipe.yaml"), profile=str(HERE / "profile.yaml"), overrides=settings)
        module, data, trainer = build(recipe)
        trainer.callbacks.append(StepEnds(clock))  # type: ignore[attr-defined]
        tower = Tower(module.model.backbone.transformer.visual)
        trainer.fit(module, data)
    # The first step has no end before it; its duration is 0 and is not counted.
    ends = [clock.ends[0], *clock.ends]
    return [end - start for start, end in itertools.pairwise(ends)], tower.seconds


def main() -> int:
    """Prints one Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m bench.features")
    parser.add_argument("--work", type=Path, help="folder for rows and checkpoint (default: a temporary one)")
    parser.add_argument(
        "--steps",
        type=int,
        default=8,
        help="optimizer steps of an epoch, of which the first two are not timed (default: 8)",
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        os.environ |= {"BASEREWARD_CACHE": str(Path(temporary) / "cache"), "BASEREWARD_RUNS": str(work / "runs")}
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{work / 'mlflow.db'}"
        steps, tower = measure(work, steps=args.steps)
    first, second = steps[WARM_UP_STEPS : args.steps], steps[args.steps + WARM_UP_STEPS :]
    vision = 2 * statistics.mean(tower[2 * WARM_UP_STEPS :])
    first_s, second_s = statistics.mean(first), statistics.mean(second)
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores\n")
    print("| saved / vision's | vision's share | step, first epoch | second epoch | calls of the tower |")
    print("|---|---|---|---|---|")
    saved = (first_s - second_s) / vision
    shown = f"| {saved:.2f} | {vision / first_s:.2f} | {first_s:.2f} s | {second_s:.2f} s |"
    print(f"{shown} {len(tower)} for {4 * args.steps} pictures |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
