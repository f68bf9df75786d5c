"""The loss over rankings, against its definition and against Bradley-Terry."""

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
    """Groups of so many responses with their preferences."""
    encoded = [
        encoded_group(2, [3] * count, preferences, name=str(index)) for index, (count, preferences) in enumerate(groups)
    ]
    return collate(encoded, layout="tree", pad_id=0)


def likelihood(scores: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    """Of an order, best first: one choice after the other among those that are left."""
    probability = torch.ones(())
    for place, index in enumerate(order[:-1]):
        left = torch.stack([scores[each] for each in order[place:]])
        probability = probability * scores[index].exp() / left.exp().sum()
    return probability


def test_a_ranking_has_its_likelihood() -> None:
    """By the definition, choice after choice; over all orders the likelihoods sum to one."""
    scores = torch.tensor([0.3, -1.2, 0.9, 0.1])
    total = 0.0
    for order in permutations(range(4)):
        ranks = [order.index(index) for index in range(4)]
        loss, _ = PlackettLuce()(scores, batch_of((4, rank_preferences(ranks))))
        expected = likelihood(scores, order)
        assert float(loss) == pytest.approx(float(-expected.log()) / 3, rel=1e-5)
        total += float(torch.exp(-3 * loss))
    assert total == pytest.approx(1.0, rel=1e-5)


def test_of_pairs_it_is_bradley_terry() -> None:
    """With weights, over several groups, gradients too."""
    batch = batch_of((2, (Preference(0, 1),)), (2, (Preference(1, 0, weight=0.5),)))
    found = []
    for loss in (PlackettLuce(), BradleyTerry()):
        scores = torch.tensor([0.3, -1.2, 0.9, 0.1], requires_grad=True)
        value, _ = loss(scores, batch)
        value.backward()
        found.append((value.detach(), scores.grad))
    assert torch.allclose(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1])  # type: ignore[arg-type]


def test_equals_are_not_compared() -> None:
    """Of two true and two false answers each true one is chosen among itself and the false ones, by hand."""
    preferences = tuple(Preference(i, j) for i in (0, 1) for j in (2, 3))
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0])
    loss, _ = PlackettLuce()(scores, batch_of((4, preferences)))
    e = scores.exp()
    expected = -(torch.log(e[0] / (e[0] + e[2] + e[3])) + torch.log(e[1] / (e[1] + e[2] + e[3]))) / 2
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_ties_alone_teach_nothing() -> None:
    """A loss of zero with a gradient of zero."""
    scores = torch.tensor([1.0, 0.0], requires_grad=True)
    loss, _ = PlackettLuce()(scores, batch_of((2, (Preference(0, 1, tie=True),))))
    loss.backward()
    assert float(loss) == 0.0
    assert scores.grad is not None
    assert scores.grad.tolist() == [0.0, 0.0]
