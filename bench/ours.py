"""Time our own training on a workload, with `trainer.fit` as a notebook calls it.

python -m bench.ours --checkpoint FOLDER --rows pairs.jsonl --layout tree [--steps 8] [--responses 4] [--vision]
"""

from __future__ import annotations

from importlib.metadata import version
from math import comb
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback

from basereward import build, load_recipe
from bench.timing import Clock, arguments, quiet_stdout, report
from bench.workloads import read_rows

HERE = Path(__file__).parent


class StepEnds(Callback):
    """Ticks a clock at the end of every batch, each of which is an optimizer step here."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.clock.tick()


def overrides(checkpoint: Path, rows: Path, *, layout: str, groups: int, steps: int, vision: bool) -> list[str]:
    """What the recipe of the bench is told for one workload."""
    return [
        f"model.backbone.path={checkpoint}",
        f"data.sources.rows.path={rows}",
        f"batch.layout={layout}",
        f"batch.groups={groups}",
        f"batch.groups_per_forward={groups}",
        f"trainer.steps={steps}",
        f"model.lora.parts=[{'vision, merger, language' if vision else 'language'}]",
    ]


def main() -> None:
    """Trains for a few steps; a group of K responses counts K (K - 1) / 2 preferences."""
    given = arguments(__doc__, more=("layout",))
    group_size = len(read_rows(given.rows)[0]["responses"])
    groups = given.responses // group_size
    clock = Clock()
    told = overrides(
        given.checkpoint, given.rows, layout=given.layout, groups=groups, steps=given.steps, vision=given.vision
    )
    with quiet_stdout():
        module, data, trainer = build(
            load_recipe(str(HERE / "recipe.yaml"), profile=str(HERE / "profile.yaml"), overrides=told)
        )
        trainer.callbacks.append(StepEnds(clock))  # type: ignore[attr-defined]
        trainer.fit(module, data)
    pairs = groups * comb(group_size, 2)
    report(f"ours, {given.layout}", clock, pairs=pairs, version=version("basereward"), torch=torch.__version__)


if __name__ == "__main__":
    main()
