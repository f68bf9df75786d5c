"""Whole runs on rows with pictures, and what they looked at: calls of the vision tower and files that were opened."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
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
TRAIN, VAL, PICTURES = 16, 4, 6  # groups of both parts; different pictures of the former


@dataclass
class Run:
    """What a run came to, and what it looked at in every epoch, validation included."""

    before: str = ""  # a hash of the trained weights
    after: str = ""
    towers: list[int] = field(default_factory=list)  # calls of the vision tower
    opened: list[int] = field(default_factory=list)  # picture files that this process opened


def write_pictures(folder: Path) -> list[str]:
    """Rows with pictures, and overrides that train two epochs on them. The same picture comes in several groups and
    files, twice in one group, and in validation, which has two more of its own."""
    train, val = pair_rows(TRAIN), pair_rows(VAL, seed=1)
    for index, row in enumerate([*train, *val]):
        which = index % PICTURES if index < TRAIN else PICTURES + index % 2 if index % 4 < 2 else index % 4
        picture(which).save(folder / f"{index}.png")
        row["images"] = [f"{index}.png"] * (2 if index == 3 else 1)
    files = [write_rows(folder / f"{name}.jsonl", rows) for name, rows in (("train", train), ("val", val))]
    kept = [each for each in SMALL if not each.startswith(("data.sources.", "trainer.steps"))]
    mine = ["include=sources/jsonl", f"path={files[0]}", f"val={files[1]}", "test=0.0"]
    nothing_else = ["data.sources.digits=null", "data.sources.numbers=null"]
    lengths = ["trainer.steps=null", "trainer.epochs=2.0", "trainer.validations=2", "optimizer.lr=1e-2"]
    return [*kept, *nothing_else, *(f"data.sources.mine.{each}" for each in mine), *lengths]


def different(folder: Path) -> int:
    """How many different picture files there are."""
    return len({file.read_bytes() for file in folder.glob("*.png")})


class Watch(Callback):
    """Begins to count anew at every epoch."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.run.towers.append(0)
        self.run.opened.append(0)


@contextmanager
def opening_counted(run: Run) -> Iterator[None]:
    """Pillow, with every file that it opens counted in this process."""
    true = PIL.Image.open

    def counted(*arguments: Any, **options: Any) -> PIL.Image.Image:
        if run.opened:
            run.opened[-1] += 1
        return true(*arguments, **options)

    PIL.Image.open = counted
    try:
        yield
    finally:
        PIL.Image.open = true


def train(*overrides: str, die_at: int | None = None) -> Run:
    """A whole run; it kills its own process at the call of the tower with the number `die_at`."""
    recipe = load_recipe("basereward", overrides=overrides)
    module, data, _ = build(recipe)
    run = Run(before=digest(module.trained_state()))

    def look(*_: Any) -> None:
        run.towers[-1] += 1
        if sum(run.towers) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    transformer: Any = module.model.backbone.transformer
    transformer.visual.register_forward_hook(look)
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
    run.after = digest(module.trained_state())
    return run


def digest(weights: dict[str, torch.Tensor]) -> str:
    """A hash of every bit."""
    found = hashlib.sha256()
    for name in sorted(weights):
        found.update(name.encode() + weights[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    torch.set_num_threads(1)
    told = json.loads(sys.argv[1])
    sys.stdout.write(json.dumps(asdict(train(*told["overrides"], die_at=told["die_at"]))) + "\n")
