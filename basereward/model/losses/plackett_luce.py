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
        count = len(scores)
        # Row i of the mask: i itself and the responses that it is preferred to. All K rows, also those of responses
        # that are preferred to none, whose loss is 0: to select rows by their numbers would wait for a GPU.
        decided = (~pairs.tie).to(scores.dtype)
        better = torch.zeros(count, count, device=scores.device)
        better = better.index_put((pairs.winner, pairs.loser), decided, accumulate=True)
        candidates = (better + torch.eye(count, device=scores.device)) > 0
        losses = scores.expand(count, count).masked_fill(~candidates, float("-inf")).logsumexp(-1) - scores
        return self._mean(losses, decided, batch)

    def _mean(self, losses: Tensor, decided: Tensor, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over the choices of each group, then over groups.

        Args:
            losses: `(K,)`, of every response as a choice.
            decided: `(P,)`, 1 for a preference and 0 for a tie.
            batch: gives the weight of a choice, which is the mean weight of its preferences.
        """
        pairs = batch.preferences
        zeros = torch.zeros(len(losses), device=losses.device)
        number = zeros.index_add(0, pairs.winner, decided)
        weight = zeros.index_add(0, pairs.winner, decided * pairs.weight) / number.clamp_min(1)
        group = torch.zeros(len(losses), dtype=torch.int64, device=losses.device)
        group[pairs.winner] = pairs.group
        share = group_weights(weight, counted=number > 0, group=group, num_groups=batch.num_groups)
        ranking = (share * losses).sum()
        return ranking, {"ranking": ranking}
