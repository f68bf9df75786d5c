"""How fast a training multiplies, beside how fast its machine can."""

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

logger = logging.getLogger(__name__)

ON_CPU = (2500, 512, 2048)  # rows, inner and columns of the product that a machine is measured by
ON_GPU = (8192, 8192, 8192)
REPEATS = 3


class Performance(Callback):
    """Logs at every step of the optimizer `perf/tflops`, the useful TFLOP a second of the step (see `model.cost`), and
    `perf/mfu`, that over the rate at which the device multiplies two large matrices, measured when training starts.

    A step's time is that from its first batch's start to its end, as in `time/step_s`. Nothing is logged for a
    backbone whose layers cannot be counted; a line of the log says so.
    """

    def __init__(self) -> None:
        self.counter: Counter | None = None
        self.rate = float("nan")  # FLOP/s
        self._began = 0.0
        self._flops = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, RewardModule)
        try:
            self.counter = Counter(pl_module.model)
        except ModelError as error:
            logger.warning("perf/tflops and perf/mfu are not logged: %s", error)
            return
        self.rate = product_rate(pl_module.device, dtype=product_dtype(trainer, pl_module))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: TreeBatch, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._began, self._flops = time.perf_counter(), 0
        if self.counter is not None:
            self._flops += self.counter(batch_shapes(batch)).total

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: TreeBatch, batch_idx: int
    ) -> None:
        if self.counter is None or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        achieved = self._flops / (time.perf_counter() - self._began)
        pl_module.log("perf/tflops", achieved / 1e12)
        pl_module.log("perf/mfu", achieved / self.rate)


def product_dtype(trainer: Trainer, module: RewardModule) -> torch.dtype:
    """In which the device is measured: that of the run's products on a GPU, float32 on a CPU."""
    if module.device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if trainer.precision == "bf16-mixed" else module.model.backbone.transformer.dtype


def product_rate(device: torch.device, *, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s at which a device multiplies two large matrices: the best of some repeats after one to warm up.

    The numbers are drawn from a generator of their own, so that no other draw changes.
    """
    rows, inner, columns = ON_CPU if device.type == "cpu" else ON_GPU
    source = torch.Generator(device).manual_seed(0)
    left, right = (
        torch.randn(shape, generator=source, device=device, dtype=dtype) for shape in ((rows, inner), (inner, columns))
    )
    seconds = [_seconds(left, right) for _ in range(REPEATS + 1)]
    return 2 * rows * inner * columns / min(seconds[1:])


@torch.no_grad()
def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    _wait(left.device)
    began = time.perf_counter()
    left @ right
    _wait(left.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
