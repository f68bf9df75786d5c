"""The pairwise logistic loss (Bradley and Terry, 1952) and the options that the papers evaluate."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Interval
from torch import Tensor
from torch.nn.functional import logsigmoid

from basereward.data.batching.loss_units import Unit
from basereward.data.batching.tree_batch import PreferencePairs, TreeBatch
from basereward.model.losses.contracts import PreferenceLoss, group_weights, term_weights


class BradleyTerry(PreferenceLoss):
    """Mean of `-log sigmoid(r_winner - r_loser)` (BaseReward, equation 1).

    Args:
        margin: by how much the winner should lead: a number, or `data` for the margin of each preference (0 for a
            preference without one).
        label_smoothing: assumed probability that a preference is the wrong way round.
        centring: weight of `mean((r_winner + r_loser)^2)`, which keeps the scores around zero (BaseReward, section on
            regularisers).
        length_normalisation: divides each score by `log(tokens of the response + 1)` in the loss. Scores that are saved
            and evaluated are not divided.
        weighting: `group` gives every group the same weight, whatever its number of preferences; `preference` gives
            every preference the same weight.
        ties: `half` pulls the two scores of a tie together (each wins with probability 1/2); `ignore` drops ties.

    >>> from basereward.data.batching.pooled import PooledGroup, collate_pooled
    >>> from basereward.data.schema.group import Preference
    >>> pair = PooledGroup("a pair", "source", (Preference(0, 1),), (3, 3), torch.zeros(2, 1))
    >>> batch = collate_pooled([pair])
    >>> loss, parts = BradleyTerry()(torch.tensor([1.0, 0.0]), batch)  # log(1 + exp(-1))
    >>> round(loss.item(), 4)
    0.3133
    """

    def __init__(
        self,
        *,
        margin: float | Literal["data"] = 0.0,
        label_smoothing: Annotated[float, Interval(ge=0, lt=0.5)] = 0.0,
        centring: Annotated[float, Ge(0)] = 0.0,
        length_normalisation: bool = False,
        weighting: Literal["group", "preference"] = "group",
        ties: Literal["half", "ignore"] = "half",
    ) -> None:
        super().__init__()
        self.margin = margin
        self.label_smoothing = label_smoothing
        self.centring = centring
        self.length_normalisation = length_normalisation
        self.weighting = weighting
        self.ties = ties

    @property
    def unit(self) -> Unit:  # type: ignore[override]  # of a loss with options, the unit depends on them
        """The unit of which the loss is a mean."""
        if self.weighting == "preference":
            return "decided_preference" if self.ties == "ignore" else "preference"
        return "decided_group" if self.ties == "ignore" else "group"

    def forward(self, scores: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Maps scores `(K,)` in float32 and their batch to the loss and its named parts, all scalars."""
        if self.length_normalisation:
            scores = scores / torch.log(batch.lengths + 1.0)
        pairs = batch.preferences
        winner, loser = scores[pairs.winner], scores[pairs.loser]
        weights = self._weights(pairs, num_groups=batch.num_groups)
        lead = winner - loser - self._margins(pairs)
        flipped = torch.where(pairs.tie, 0.5, self.label_smoothing)
        ranking = -(weights * ((1 - flipped) * logsigmoid(lead) + flipped * logsigmoid(-lead))).sum()
        parts = {"ranking": ranking}
        if self.centring:
            parts["centring"] = self.centring * (weights * (winner + loser).square()).sum()
        return torch.stack(list(parts.values())).sum(), parts

    def _margins(self, pairs: PreferencePairs) -> Tensor:
        """By how much the winner of each preference should lead, `(P,)`."""
        from_data = self.margin == "data"
        margins = pairs.margin.nan_to_num(0.0) if from_data else torch.full_like(pairs.margin, float(self.margin))
        # A tie has no side that should lead.
        return margins.masked_fill(pairs.tie, 0.0)

    def _weights(self, pairs: PreferencePairs, *, num_groups: int) -> Tensor:
        """The factor of each preference in the sum, `(P,)`."""
        counted = ~pairs.tie if self.ties == "ignore" else torch.ones_like(pairs.tie)
        if self.weighting == "preference":
            return term_weights(pairs.weight, counted=counted)
        return group_weights(pairs.weight, counted=counted, group=pairs.group, num_groups=num_groups)
