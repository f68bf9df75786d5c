"""Whether a margin means what it says: of pairs called at 80 %, 80 % should be right."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torchmetrics.classification import BinaryCalibrationError

from basereward.metrics.margins import untied
from basereward.metrics.reliability import BINS


class CalibrationError(BinaryCalibrationError):
    """Expected calibration error of the favoured response: confidence sigmoid(|margin|), right when margin > 0.

    The mean over 15 bins of equal width, weighted by their pairs, of |accuracy - confidence|. Ties are left out. NaN
    when nothing is left.

    >>> metric = CalibrationError()
    >>> metric.update(torch.tensor([20.0, -20.0]))  # two sure calls, one of them wrong
    >>> metric.compute()
    tensor(0.5000)
    """

    higher_is_better = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(n_bins=BINS, norm="l1", validate_args=False, **kwargs)

    def update(self, margins: Tensor, *, ties: Tensor | None = None) -> None:  # type: ignore[override]
        """Add P preferences: `margins (P,)`, `ties (P,)` of bool."""
        used = untied(margins, ties)
        called = margins[used].float()
        # float, not bool: a process without rows gathers an empty float tensor, and the types must agree.
        super().update(torch.sigmoid(called.abs()), (called > 0).float())

    def compute(self) -> Tensor:
        # A list of parts, which may be empty, or after the exchange between processes one tensor.
        kept = cast("list[Tensor] | Tensor", self.confidences)
        parts = [kept] if isinstance(kept, Tensor) else kept
        if sum(part.numel() for part in parts) == 0:
            return torch.tensor(torch.nan, device=self.device)
        return super().compute()
