"""Whole training runs on rows with pictures that count calls of the vision tower and opened picture files."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from basereward.recipe import load_recipe
from basereward.training.build import build
from tests.helpers.support import SMALL, pair_rows, picture, write_rows

FROZEN = "model.backbone.freeze=[vision,merger]"
KEPT = "data.encoding.feature_cache=0.1"
TRAIN, VAL, PICTURES = 16, 4, 6  # training groups, validation groups, different training pictures


@dataclass
class Run:
    """The trained weights of a run, and its counts for every epoch with validation."""

    before: list[float] = field(default_factory=list)  # all trained weights before the training
    after: list[float] = field(default_factory=list)
    towers: list[int] = field(default_factory=list)  # calls of the vision tower
    opened: list[int] = field(default_factory=list)  # picture files that this process opened


def distance(run: Run, other: Run) -> float:
    """Return the largest difference between the weights of two runs, in units of the largest change of the other."""
    change = (torch.tensor(other.after) - torch.tensor(other.before)).abs().max()
    return float((torch.tensor(run.after) - torch.tensor(other.after)).abs().max() / change)


def write_pictures(folder: Path) -> list[str]:
    """Write rows with pictures and return overrides that train two epochs on them.

    The same picture is in several groups and files, twice in one group, and in validation, which has two more pictures.
    """
    train, val = pair_rows(TRAIN), pair_rows(VAL, seed=1)
    for index, row in enumerate([*train, *val]):
        picture_number = index % PICTURES if index < TRAIN else PICTURES + index % 2 if index % 4 < 2 else index % 4
        picture(picture_number).save(folder / f"{index}.png")
        row["images"] = [f"{index}.png"] * (2 if index == 3 else 1)
    files = [write_rows(folder / f"{name}.jsonl", rows) for name, rows in (("train", train), ("val", val))]
    small = [override for override in SMALL if not override.startswith(("data.sources.", "trainer.steps"))]
    source = ["include=sources/jsonl", f"path={files[0]}", f"val={files[1]}", "test=0.0"]
    without_other_sources = ["data.sources.digits=null", "data.sources.numbers=null"]
    lengths = ["trainer.steps=null", "trainer.epochs=2.0", "trainer.validations=2", "optimizer.lr=1e-2"]
    # As in the tests of probes: AdamW would turn a gradient that is only rounding into whole steps.
    lengths += ["optimizer.eps=1e-3", "loss.centring=0.01"]
    return [*small, *without_other_sources, *(f"data.sources.mine.{setting}" for setting in source), *lengths]


def different(folder: Path) -> int:
    """Return the number of different picture files."""
    return len({file.read_bytes() for file in folder.glob("*.png")})


class Watch(Callback):
    """Start new counts at every epoch."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.run.towers.append(0)
        self.run.opened.append(0)


@contextmanager
def opening_counted(run: Run) -> Iterator[None]:
    """Count every file that Pillow opens in this process."""
    original_open = PIL.Image.open

    def counted_open(*arguments: Any, **options: Any) -> PIL.Image.Image:
        if run.opened:
            run.opened[-1] += 1
        return original_open(*arguments, **options)

    PIL.Image.open = counted_open
    try:
        yield
    finally:
        PIL.Image.open = original_open


def train(*overrides: str, die_at: int | None = None) -> Run:
    """Run a whole training; the process kills itself at the call `die_at` of the vision tower."""
    recipe = load_recipe("basereward", overrides=overrides)
    module, data, _ = build(recipe)
    run = Run(before=numbers(module.trained_state()))

    def count_call(*_: Any) -> None:
        run.towers[-1] += 1
        if sum(run.towers) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    transformer: Any = module.model.backbone.transformer
    transformer.visual.register_forward_hook(count_call)
    assert data.plan is not None
    trainer = Trainer(
        accelerator="cpu",
        precision=recipe.trainer.precision,
        max_epochs=data.plan.stages,
        accumulate_grad_batches=data.plan.forwards_per_step,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        callbacks=[Watch(run)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with opening_counted(run):
        trainer.fit(module, data)
    run.after = numbers(module.trained_state())
    return run


def numbers(weights: dict[str, torch.Tensor]) -> list[float]:
    """Return all weights, in the order of their names. A float in Python has every bit of one in float32."""
    return torch.cat([weights[name].flatten() for name in sorted(weights)]).tolist()
