"""StableReinforce of R1-Reward (arXiv 2505.02835): REINFORCE++ with a pre-clip and a filter of advantages."""

from __future__ import annotations

from typing import Any, Literal

from basereward.model.losses.contracts import PreferenceLoss
from basereward.training.objectives.rollouts.contracts import RolloutBaseline, RolloutObjective


class StableReinforce(RolloutObjective):
    """StableReinforce: limits the ratio of probabilities before its exponential, and drops outlying advantages.

    Args:
        loss: not used.
        filter: `paper` drops advantages beyond 3 standard deviations; `code` is the filter of the released code, which
            drops wrong answers once most are right; `off` drops none.
        ratio_bounds: smallest and largest ratio of the pre-clip; null: no pre-clip.
        baseline: `batch` as in the paper: returns of tokens are standardised over all tokens; `group`: rewards are
            standardised over the rollouts of their prompt.
        options: as of every objective that learns from rollouts.

    >>> StableReinforce(PreferenceLoss(), filter="code").ratio_bounds
    (0.001, 1000.0)
    """

    name = "stable_reinforce"

    def __init__(
        self,
        loss: PreferenceLoss,
        *,
        filter: Literal["paper", "code", "off"] = "paper",
        ratio_bounds: tuple[float, float] | None = (1e-3, 1e3),
        baseline: Literal["batch", "group"] = "batch",
        **options: Any,
    ) -> None:
        super().__init__(loss, **options)
        self.filter = filter
        self.ratio_bounds = None if ratio_bounds is None else (ratio_bounds[0], ratio_bounds[1])
        self.baseline: RolloutBaseline = baseline
