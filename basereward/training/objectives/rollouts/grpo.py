"""GRPO (arXiv 2402.03300): rewards standardised over the rollouts of their prompt."""

from __future__ import annotations

from typing import Any

from basereward.model.losses.contracts import PreferenceLoss
from basereward.training.objectives.rollouts.contracts import RolloutObjective


class GRPO(RolloutObjective):
    """GRPO: rewards standardised over the rollouts of their prompt, with the penalty in the loss.

    Args:
        loss: not used.
        options: as of every objective that learns from rollouts.

    >>> GRPO(PreferenceLoss()).baseline
    'group'
    """

    name = "grpo"
    kl = "loss"

    def __init__(self, loss: PreferenceLoss, **options: Any) -> None:
        super().__init__(loss, **options)
        self.baseline = "group"
