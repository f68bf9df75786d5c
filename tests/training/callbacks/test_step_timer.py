"""Test the share of time that training waits for its batches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Callback, LightningModule, Trainer

from basereward.data.module import PreferenceData
from basereward.recipe import load_recipe
from basereward.training.build import build
from basereward.training.callbacks.step_timer import DATA_WAIT_SHARE, StepTimer
from tests.helpers.support import SMALL

STEPS = 3


@pytest.fixture(autouse=True)
def shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the project's experiments from any working folder."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(Path(__file__).parents[3] / "experiments"))


class Slow(Callback):
    """A callback that delays every batch and records the share that the last step logged."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.share = -1.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        time.sleep(self.seconds)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.share = float(trainer.callback_metrics[DATA_WAIT_SHARE])


class SlowLoader:
    """A loader that delays every batch."""

    def __init__(self, loader: Any, seconds: float) -> None:
        self.loader, self.seconds = loader, seconds

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            time.sleep(self.seconds)
            yield batch


def waited(monkeypatch: pytest.MonkeyPatch, *, loading: float, working: float) -> float:
    """Return the logged share of a run of two passes a step, with delays in loading and in training."""
    changes = (*SMALL, f"trainer.steps={STEPS}", "trainer.validations=1")
    module, data, _ = build(load_recipe("basereward", overrides=changes))
    original_loader = PreferenceData.train_dataloader
    monkeypatch.setattr(PreferenceData, "train_dataloader", lambda self: SlowLoader(original_loader(self), loading))
    timer, slow = StepTimer(), Slow(working)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        accumulate_grad_batches=2,
        limit_val_batches=0,
        callbacks=[timer, slow],
        profiler=timer.clock,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    return slow.share


def test_slow_loading_gives_a_large_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second of loading per batch exceeds the time of a small model's step."""
    assert waited(monkeypatch, loading=0.5, working=0.0) > 0.5


def test_slow_training_gives_a_small_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch is loaded at once and trained for half a second."""
    assert waited(monkeypatch, loading=0.0, working=0.5) < 0.3


def test_recipe_trainer_has_the_step_timer() -> None:
    """The trainer of a recipe has the callback and uses its clock as profiler."""
    _, _, trainer = build(load_recipe("basereward", overrides=SMALL))
    (step_timer,) = (callback for callback in vars(trainer)["callbacks"] if isinstance(callback, StepTimer))
    assert vars(trainer)["profiler"] is step_timer.clock


@pytest.mark.parametrize(("batches", "expected"), [(None, 2), (5, 5)])
def test_workers_prefetch_batches(batches: int | None, expected: int) -> None:
    """Each worker prefetches `data.prefetch` batches, by default torch's number, and there is no prefetching without
    workers."""
    prefetch = "null" if batches is None else str(batches)
    _, data, _ = build(load_recipe("basereward", overrides=(*SMALL, "data.workers=1", f"data.prefetch={prefetch}")))
    assert data.stage_loader(0).prefetch_factor == expected
    data.workers = 0
    assert data.stage_loader(0).prefetch_factor is None
