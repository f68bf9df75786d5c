"""Measures the useful FLOP/s of a training, and its share of what the device reaches in a matrix product (MFU)."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from basereward.data.batching.tree_batch import TreeBatch
from basereward.errors import ModelError
from basereward.model.cost.flops import Counter
from basereward.model.cost.sequence_shapes import batch_shapes
from basereward.training.module import RewardModule
from basereward.training.parallel.collectives import num_ranks

logger = logging.getLogger(__name__)

CPU_PRODUCT = (2500, 512, 2048)
"""Rows, inner size and columns of the measured product: 5 GFLOP, a fraction of a second on two cores."""
GPU_PRODUCT = (8192, 8192, 8192)
"""1.1 TFLOP, milliseconds on a data-centre GPU; smaller products do not reach its peak."""
REPEATS = 3
"""Measured products. The fastest one counts, because other work on the machine only ever makes one slower."""


class Performance(Callback):
    """Logs `perf/tflops` and `perf/mfu` at every optimizer step.

    `perf/tflops` is the useful work of the step in TFLOP/s (see `basereward.model.cost`). `perf/mfu` divides it by the
    rate at which the device multiplies two large matrices, measured at the start of the training. The time of a step
    runs from the start of its first batch to its end, as in `time/step_s`. For a backbone whose layers cannot be
    counted, nothing is logged, with one warning.
    """

    def __init__(self) -> None:
        self.counter: Counter | None = None
        # FLOP/s of the device in a matrix product.
        self.device_rate = float("nan")
        self._began = 0.0
        self._flops = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the layers of the model, and measure the device once for the whole training."""
        assert isinstance(pl_module, RewardModule)
        # A backbone of another kind can be trained without these two metrics.
        try:
            self.counter = Counter(pl_module.model)
        except ModelError as error:
            logger.warning("perf/tflops and perf/mfu are not logged: %s", error)
            return
        self.device_rate = product_rate(pl_module.device, dtype=product_dtype(trainer, pl_module))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: TreeBatch, batch_idx: int
    ) -> None:
        """Start the clock at the first micro-batch of a step, and add the work of each one."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._began, self._flops = time.perf_counter(), 0
        if self.counter is not None:
            self._flops += self.counter(batch_shapes(batch)).total

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: TreeBatch, batch_idx: int
    ) -> None:
        """Log the rate of the step after its last micro-batch."""
        if self.counter is None or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        achieved = self._flops / (time.perf_counter() - self._began)
        # Of a device: the mean over the ranks, whose micro-batches differ in length.
        several = num_ranks() > 1
        pl_module.log("perf/tflops", achieved / 1e12, sync_dist=several)
        pl_module.log("perf/mfu", achieved / self.device_rate, sync_dist=several)


def product_dtype(trainer: Trainer, module: RewardModule) -> torch.dtype:
    """Return the precision in which the device is measured: on a GPU that of the run, on a CPU float32.

    Args:
        trainer: with the precision of the run.
        module: on its device.
    """
    # Many CPUs multiply matrices of bfloat16 slower than of float32, so that rate would be no upper bound.
    if module.device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if trainer.precision == "bf16-mixed" else module.model.backbone.transformer.dtype


def product_rate(device: torch.device, *, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s at which a device multiplies two large matrices: the best of `REPEATS` after a warm-up.

    Args:
        device: to measure.
        dtype: of the matrices.

    >>> product_rate(torch.device("cpu")) > 1e6
    True
    """
    rows, inner, columns = CPU_PRODUCT if device.type == "cpu" else GPU_PRODUCT
    # A generator of its own: the global one must draw the same numbers with and without this callback.
    generator = torch.Generator(device).manual_seed(0)
    left = torch.randn((rows, inner), generator=generator, device=device, dtype=dtype)
    right = torch.randn((inner, columns), generator=generator, device=device, dtype=dtype)
    # The first product is a warm-up: it loads the kernels and allocates the result.
    seconds = [_seconds(left, right) for _ in range(REPEATS + 1)]
    return 2 * rows * inner * columns / min(seconds[1:])


@torch.no_grad()
def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    """The seconds of one product. A GPU computes asynchronously, so the clock waits for it before and after."""
    _synchronize(left.device)
    began = time.perf_counter()
    left @ right
    _synchronize(left.device)
    return time.perf_counter() - began


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
