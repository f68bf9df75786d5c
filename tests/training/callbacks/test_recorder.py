"""Test what a run records and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Callback, LightningModule, Trainer

from basereward.recipe import load_recipe
from basereward.recipe.schema import Recipe
from basereward.runs.run_folder import RunFolder
from basereward.training.build import build
from tests.helpers.support import SMALL


class Witness(Callback):
    """Record, after every checkpoint, the steps with a recorded loss, which a kill would leave behind."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.left: dict[int, list[int]] = {}  # recorded steps by the checkpoint's step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (self.run.checkpoints / "last.ckpt").exists() and trainer.global_step not in self.left:
            self.left[trainer.global_step] = losses(self.run)


def losses(run: RunFolder) -> list[int]:
    """Return the steps whose loss is in the journal, in its order."""
    records = [record for record, _ in run.journal.read(0)]
    return [record["step"] for record in records if "train/loss" in record.get("values", {})]


@pytest.fixture
def recipe() -> Recipe:
    """Return the recipe of a run with a checkpoint after every step."""
    return load_recipe("basereward", overrides=[*SMALL, "trainer.steps=4", "trainer.checkpoint_every=1"])


def fitted(recipe: Recipe) -> tuple[RunFolder, Witness]:
    """Train and return the run and its witness."""
    module, data, trainer = build(recipe)
    witness = Witness(RunFolder(Path(trainer.default_root_dir)))
    trainer.callbacks.append(witness)  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=data)
    return witness.run, witness


@pytest.mark.usefixtures("ready_store")
def test_step_is_recorded_before_its_checkpoint(recipe: Recipe) -> None:
    """A run killed right after a checkpoint resumes with the next step, so the record of this step must exist."""
    run, witness = fitted(recipe)
    assert witness.left == {step: list(range(1, step + 1)) for step in (1, 2, 3, 4)}
    assert losses(run) == [1, 2, 3, 4]


@pytest.mark.usefixtures("ready_store")
def test_step_is_recorded_once_and_completely(recipe: Recipe) -> None:
    """Every metric of a step is in the journal once under that step."""
    run, _ = fitted(recipe)
    steps_by_name: dict[str, list[int]] = {}
    for record, _ in run.journal.read(0):
        for name in record.get("values", {}) if record["kind"] == "metrics" else ():
            steps_by_name.setdefault(name, []).append(record["step"])
    step_metrics = {name for name, steps in steps_by_name.items() if steps == [1, 2, 3, 4]}
    assert {"train/loss", "train/lr", "train/grad_norm", "time/step_s", "perf/tflops", "perf/mfu"} <= step_metrics
    assert "time/data_wait_share" in step_metrics
    assert steps_by_name["val/pair_accuracy"] == [2, 4]  # the log and the best weights have the same steps
    assert all(len(steps) == len(set(steps)) for steps in steps_by_name.values()), steps_by_name


@pytest.mark.usefixtures("ready_store")
def test_recorded_learning_rate_is_that_of_the_step() -> None:
    """The warm-up covers all four steps and starts at a quarter of the peak rate."""
    overrides = [*SMALL, "trainer.steps=4", "schedule={shape: constant, warmup: 1.0}", "optimizer.lr=1e-3"]
    run, _ = fitted(load_recipe("basereward", overrides=overrides))
    records = [record for record, _ in run.journal.read(0) if "train/lr" in record.get("values", {})]
    rates = {record["step"]: record["values"]["train/lr"] for record in records}
    assert rates == pytest.approx({1: 0.25e-3, 2: 0.5e-3, 3: 0.75e-3, 4: 1e-3})
