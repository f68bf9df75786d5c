"""FSDP2 as a strategy of Lightning: weights, gradients and optimizer states are divided among the processes."""

from __future__ import annotations

from datetime import timedelta

from pytorch_lightning.strategies import ModelParallelStrategy


class ShardedStrategy(ModelParallelStrategy):
    """Divides the model of a `RewardModule` among all processes.

    Args:
        ranks: number of all processes.
        timeout: how long a process waits for the others.
    """

    def __init__(self, ranks: int, *, timeout: timedelta) -> None:
        super().__init__(data_parallel_size=ranks, tensor_parallel_size=1, timeout=timeout)
