"""What the loss of an optimizer step is a mean over."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepTotals:
    """Sizes of the optimizer step that a micro-batch belongs to, known before the first micro-batch of the step.

    Lightning takes the mean of the losses over the micro-batches of a step. With these totals each micro-batch can be
    given the weight with which that mean is the loss of the whole step.

    Args:
        micro_batches: of the step, over all ranks.
        groups: of the step, over all ranks.
        units: units of the ranking loss in the step, over all ranks; see `basereward.data.batching.loss_units`.
        images: whether a group of the step may have an image, on any rank. Without one, a vision tower is not trained.

    >>> totals = StepTotals(micro_batches=2, groups=8, units=20)
    >>> totals.group_share(6), totals.group_share(2), totals.unit_share(5)
    (1.5, 0.5, 0.5)
    """

    micro_batches: int
    groups: int
    units: int
    images: bool = True

    def group_share(self, groups: int) -> float:
        """The weight of a micro-batch with this number of groups; its mean over the step is 1."""
        return groups * self.micro_batches / self.groups

    def unit_share(self, units: int) -> float:
        """The weight of a micro-batch with this number of units; its mean over the step is 1."""
        return units * self.micro_batches / max(self.units, 1)
