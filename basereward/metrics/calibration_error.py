"""Expected calibration error: of the pairs with a confidence of 80 %, 80 % should be ranked correctly."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torchmetrics.classification import BinaryCalibrationError

from basereward.metrics.margins import untied
from basereward.metrics.reliability import BINS


class CalibrationError(BinaryCalibrationError):
    """Expected calibration error of the response with the higher score.

    Its confidence is sigmoid(|margin|), the probability in the Bradley-Terry model; it is correct when margin > 0. The
    value is the mean over 15 bins of equal width, weighted by their pairs, of |accuracy - confidence| (Naeini et al.
    2015). Ties are left out. NaN without pairs.

    >>> metric = CalibrationError()
    >>> metric.update(torch.tensor([20.0, -20.0]))  # two confident predictions, one of them wrong
    >>> metric.compute()
    tensor(0.5000)
    """

    higher_is_better = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(n_bins=BINS, norm="l1", validate_args=False, **kwargs)

    def update(self, margins: Tensor, *, ties: Tensor | None = None) -> None:  # type: ignore[override]
        """Add P preferences: `margins (P,)`, `ties (P,)` of bool."""
        used = untied(margins, ties)
        used_margins = margins[used].float()
        # torchmetrics applies a sigmoid of its own to values outside of [0, 1], so it must get probabilities.
        # Float targets, not bool: a process without rows gathers an empty float tensor, and the types must agree.
        super().update(torch.sigmoid(used_margins.abs()), (used_margins > 0).float())

    def compute(self) -> Tensor:
        # The state is a list of tensors, which may be empty; after the exchange between processes it is one tensor.
        """The calibration error over all processes; NaN, where torchmetrics would fail, without pairs."""
        state = cast("list[Tensor] | Tensor", self.confidences)
        parts = [state] if isinstance(state, Tensor) else state
        if sum(part.numel() for part in parts) == 0:
            return torch.tensor(torch.nan, device=self.device)
        return super().compute()
