"""A head that kills its process during training."""

from __future__ import annotations

import os
import signal

import torch
from torch import Tensor, nn


class DeadlyHead(nn.Module):
    """Kill the process at the first forward pass of a training; a check of the head has it in evaluation mode."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.score = nn.Linear(hidden_size, 1)

    def forward(self, pooled: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            os.kill(os.getpid(), signal.SIGKILL)
        return self.score(pooled).squeeze(-1)
