"""The Plackett-Luce loss, compared with its definition and with Bradley-Terry."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.schema.group import Preference, rank_preferences
from basereward.model.losses.bradley_terry import BradleyTerry
from basereward.model.losses.plackett_luce import PlackettLuce
from tests.helpers.support import encoded_group


def batch_of(*groups: tuple[int, tuple[Preference, ...]]) -> TreeBatch:
    """Return a batch of groups given by their number of responses and their preferences."""
    encoded = [
        encoded_group(2, [3] * count, preferences, name=str(index)) for index, (count, preferences) in enumerate(groups)
    ]
    return collate(encoded, layout="tree", pad_id=0)


def likelihood(scores: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """Return the probability of an order, best first: successive choices among the remaining responses."""
    probability = torch.ones(())
    for position, index in enumerate(order[:-1]):
        remaining = torch.stack([scores[other] for other in order[position:]])
        probability = probability * scores[index].exp() / remaining.exp().sum()
    return probability


def test_loss_of_a_ranking_is_its_negative_log_likelihood() -> None:
    """The loss equals the definition, and the likelihoods of all orders sum to one."""
    scores = torch.tensor([0.3, -1.2, 0.9, 0.1])
    total = 0.0
    for order in permutations(range(4)):
        ranks = [order.index(index) for index in range(4)]
        loss, _ = PlackettLuce()(scores, batch_of((4, rank_preferences(ranks))))
        probability = likelihood(scores, order)
        assert float(loss) == pytest.approx(float(-probability.log()) / 3, rel=1e-5)
        total += float(torch.exp(-3 * loss))
    assert total == pytest.approx(1.0, rel=1e-5)


def test_loss_of_pairs_equals_bradley_terry() -> None:
    """Loss and gradients of weighted pairs in several groups equal those of Bradley-Terry."""
    batch = batch_of((2, (Preference(0, 1),)), (2, (Preference(1, 0, weight=0.5),)))
    results = []
    for loss in (PlackettLuce(), BradleyTerry()):
        scores = torch.tensor([0.3, -1.2, 0.9, 0.1], requires_grad=True)
        value, _ = loss(scores, batch)
        value.backward()
        results.append((value.detach(), scores.grad))
    assert torch.allclose(results[0][0], results[1][0])
    assert torch.allclose(results[0][1], results[1][1])  # type: ignore[arg-type]


def test_equal_responses_are_not_compared() -> None:
    """With two true and two false responses each true one is chosen among itself and the false ones, calculated by
    hand."""
    preferences = tuple(Preference(i, j) for i in (0, 1) for j in (2, 3))
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0])
    loss, _ = PlackettLuce()(scores, batch_of((4, preferences)))
    exponentials = scores.exp()
    expected = (
        -(
            torch.log(exponentials[0] / (exponentials[0] + exponentials[2] + exponentials[3]))
            + torch.log(exponentials[1] / (exponentials[1] + exponentials[2] + exponentials[3]))
        )
        / 2
    )
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_ties_only_give_zero_loss() -> None:
    """A group with ties only has a loss and a gradient of zero."""
    scores = torch.tensor([1.0, 0.0], requires_grad=True)
    loss, _ = PlackettLuce()(scores, batch_of((2, (Preference(0, 1, tie=True),))))
    loss.backward()
    assert float(loss) == 0.0
    assert scores.grad is not None
    assert scores.grad.tolist() == [0.0, 0.0]
