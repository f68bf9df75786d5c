"""Test the performance callback: the rate of each training step and its share of the machine's rate."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from basereward.errors import ModelError
from basereward.model.cost.flops import Counter
from basereward.model.cost.sequence_shapes import batch_shapes
from basereward.recipe import load_recipe
from basereward.training.build import build
from basereward.training.callbacks import performance
from basereward.training.callbacks.performance import Performance, product_rate
from basereward.training.callbacks.step_timer import StepTimer
from tests.helpers.support import SMALL

ROOT = Path(__file__).parents[3]
STEPS = 3


@pytest.fixture(autouse=True)
def shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the project's experiments from any working folder."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))


class Curves(Callback):
    """Record the metrics of every step and the FLOPs of its batches."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.flops: list[int] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        counter = Counter(pl_module.model)  # type: ignore[arg-type]
        self.flops.append(counter(batch_shapes(batch)).total)

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.steps.append({})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps[-1] = {name: float(value) for name, value in trainer.callback_metrics.items()}


def train(*changes: str, without: bool = False) -> tuple[Curves, Performance, dict[str, torch.Tensor]]:
    """Train three steps of two passes; return the recorded curves, the callback and the weights."""
    changes = (*SMALL, f"trainer.steps={STEPS}", "trainer.validations=1", *changes)
    module, data, _ = build(load_recipe("basereward", overrides=changes))
    curves, performance_callback = Curves(), Performance()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        accumulate_grad_batches=2,
        limit_val_batches=0,
        callbacks=[curves] if without else [StepTimer(), performance_callback, curves],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    return curves, performance_callback, {name: weight.clone() for name, weight in module.trained_state().items()}


def test_recipe_trainer_has_the_performance_callback() -> None:
    """The trainer of a recipe has it among its callbacks."""
    _, _, trainer = build(load_recipe("basereward", overrides=SMALL))
    assert any(isinstance(callback, Performance) for callback in vars(trainer)["callbacks"])


def test_step_rate_is_flops_over_time() -> None:
    """A step has two passes, its time is the logged one, and the MFU is its rate over the machine's rate."""
    curves, performance, _ = train()
    last = curves.steps[-1]
    assert len(curves.flops) == 2 * STEPS
    needed = sum(curves.flops[-2:])
    assert last["perf/tflops"] * 1e12 * last["time/step_s"] == pytest.approx(needed, rel=0.2)
    assert last["perf/mfu"] == pytest.approx(last["perf/tflops"] * 1e12 / performance.device_rate)
    assert 0 < last["perf/mfu"] < 1


def test_performance_callback_changes_no_bit() -> None:
    """Weights with dropout, which draws random numbers, are equal with and without the callback."""
    changes = ("model.lora.rank=2", "model.lora.dropout=0.2")
    (_, _, measured), (_, _, plain) = train(*changes), train(*changes, without=True)
    assert measured.keys() == plain.keys()
    assert all(torch.equal(measured[name], plain[name]) for name in plain)


def test_product_rate_equals_a_timed_product() -> None:
    """The rate equals that of the same product timed here within a factor of five, and no random number is drawn."""
    before = torch.get_rng_state()
    rate = product_rate(torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    rows, inner, columns = performance.CPU_PRODUCT
    left, right = torch.ones(rows, inner), torch.ones(inner, columns)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - start)
    assert 0.2 < rate * min(seconds) / (2 * rows * inner * columns) < 5


def test_counting_flops_is_fast() -> None:
    """Counting a batch takes less than 0.05 seconds."""
    module, data, _ = build(load_recipe("basereward", overrides=SMALL))
    counter = Counter(module.model)
    batch = next(iter(data.stage_loader(0)))
    start = time.perf_counter()
    for _ in range(20):
        counter(batch_shapes(batch))
    assert (time.perf_counter() - start) / 20 < 0.05


def test_backbone_that_cannot_be_counted_still_trains(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the reason, and the two metrics are missing."""

    def refuse(model: Any) -> None:
        raise ModelError("the work of an Expert cannot be counted")

    monkeypatch.setattr(performance, "Counter", refuse)
    curves, _, _ = train()
    assert not any(name.startswith("perf/") for name in curves.steps[-1])
    assert "the work of an Expert cannot be counted" in caplog.text
