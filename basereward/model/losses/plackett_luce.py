"""The loss over rankings: the best answer first, then the best of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from basereward.data.batching.loss_units import Unit
    from basereward.data.batching.tree_batch import TreeBatch


class PlackettLuce:
    """Mean over groups of the mean over their answers i that are preferred to others of
    `-log(exp(r_i) / (exp(r_i) + sum of exp(r_j) over those that i is preferred to))`.

    Of a whole ranking this is the negative log likelihood of Plackett and Luce (Luce 1959, Plackett 1975), divided by
    the number of its choices; of a pair it is Bradley-Terry's. Of a partial order, as of several true and several false
    answers, equals are not compared. Ties are left out, margins are not used.
    """

    unit: ClassVar[Unit] = "decided_group"

    def __call__(self, scores: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Scores `(K,)` in float32 and their batch to the loss and its named parts, all scalars."""
        used = ~batch.tie
        winner, loser = batch.winner[used], batch.loser[used]
        if not len(winner):
            nothing = scores.sum() * 0.0
            return nothing, {"ranking": nothing}
        count = len(scores)
        below = torch.eye(count, dtype=torch.bool, device=scores.device)  # row i: i, and those that it is preferred to
        below[winner, loser] = True
        preferred = torch.unique(winner)
        chosen = scores.expand(count, count).masked_fill(~below, float("-inf")).logsumexp(-1) - scores
        return self._mean(chosen[preferred], preferred, batch)

    def _mean(self, losses: Tensor, preferred: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Over the choices of each group and then over groups; a choice weighs what its preferences do on average."""
        used = ~batch.tie
        size, device = len(batch.lengths), losses.device
        zeros = torch.zeros(size, device=device)
        number = zeros.index_add(0, batch.winner[used], torch.ones_like(batch.weight[used]))
        weight = zeros.index_add(0, batch.winner[used], batch.weight[used]) / number.clamp_min(1)
        group = torch.zeros(size, dtype=torch.int64, device=device)
        group[batch.winner] = batch.preference_group
        mine = group[preferred]
        choices = torch.zeros(batch.num_groups, device=device).index_add(0, mine, torch.ones_like(losses))
        share = weight[preferred] / choices[mine] / (choices > 0).sum()
        ranking = (share * losses).sum()
        return ranking, {"ranking": ranking}
