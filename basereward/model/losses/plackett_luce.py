"""The likelihood of rankings: choose the best response, then the best of the rest, and so on."""

from __future__ import annotations

import torch
from torch import Tensor

from basereward.data.batching.loss_units import Unit
from basereward.data.batching.tree_batch import TreeBatch
from basereward.model.losses.contracts import PreferenceLoss, group_weights


class PlackettLuce(PreferenceLoss):
    """Negative log likelihood of rankings (Luce 1959, Plackett 1975), the mean over choices and then over groups.

    A choice is a response i that is preferred to others, and its loss is
    `-log(exp(r_i) / (exp(r_i) + sum of exp(r_j) over those that i is preferred to))`. For a complete ranking the sum
    over choices is the negative log likelihood of Plackett and Luce; for a pair it is that of Bradley and Terry. In a
    partial order, such as several correct and several wrong responses, equals are not compared. Ties are ignored, and
    margins are not used.
    """

    unit: Unit = "decided_group"

    def forward(self, scores: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Maps scores `(K,)` in float32 and their batch to the loss and its named parts, all scalars."""
        pairs = batch.preferences
        winner, loser = pairs.winner[~pairs.tie], pairs.loser[~pairs.tie]
        if not len(winner):
            zero = scores.sum() * 0.0  # depends on the scores, so that backward works
            return zero, {"ranking": zero}
        count = len(scores)
        # Row i of the mask: i itself and the responses that it is preferred to.
        candidates = torch.eye(count, dtype=torch.bool, device=scores.device)
        candidates[winner, loser] = True
        preferred = torch.unique(winner)
        losses = scores.expand(count, count).masked_fill(~candidates, float("-inf")).logsumexp(-1) - scores
        return self._mean(losses[preferred], preferred, batch)

    def _mean(self, losses: Tensor, preferred: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over the choices of each group, then over groups.

        Args:
            losses: of the choices.
            preferred: the response of each choice, among the K.
            batch: gives the weight of a choice, which is the mean weight of its preferences.
        """
        pairs = batch.preferences
        used = ~pairs.tie
        size, device = len(batch.lengths), losses.device
        zeros = torch.zeros(size, device=device)
        number = zeros.index_add(0, pairs.winner[used], torch.ones_like(pairs.weight[used]))
        weight = zeros.index_add(0, pairs.winner[used], pairs.weight[used]) / number.clamp_min(1)
        group = torch.zeros(size, dtype=torch.int64, device=device)
        group[pairs.winner] = pairs.group
        share = group_weights(
            weight[preferred],
            counted=torch.ones_like(preferred, dtype=torch.bool),
            group=group[preferred],
            num_groups=batch.num_groups,
        )
        ranking = (share * losses).sum()
        return ranking, {"ranking": ranking}
