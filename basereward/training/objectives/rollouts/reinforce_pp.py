"""REINFORCE++: returns standardised over the batch, and the clipped surrogate."""

from __future__ import annotations

from typing import Any

from basereward.model.losses.contracts import PreferenceLoss
from basereward.training.objectives.rollouts.contracts import RolloutObjective


class ReinforcePP(RolloutObjective):
    """REINFORCE++: returns of tokens, standardised over the batch, with the penalty in the reward of each token.

    Args:
        loss: not used.
        options: as of every objective that learns from rollouts.

    >>> ReinforcePP(PreferenceLoss(), beta=1e-3).kl
    'reward'
    """

    name = "reinforce_pp"

    # Written out, because the check of a recipe reads the arguments from the text of the class.
    def __init__(self, loss: PreferenceLoss, **options: Any) -> None:
        super().__init__(loss, **options)
