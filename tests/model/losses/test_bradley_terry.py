"""The Bradley-Terry loss, compared with hand calculations. `cost(d)` is the loss of a winner that leads by d."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.schema.group import Preference, rank_preferences
from basereward.errors import RecipeError
from basereward.model.losses.bradley_terry import BradleyTerry
from basereward.recipe.nodes import make
from tests.helpers.support import encoded_group


def cost(lead: float) -> float:
    """Return -log sigmoid(lead)."""
    return math.log(1 + math.exp(-lead))


def batch_of(*groups: tuple[Preference, ...], lengths: tuple[int, ...] = (3, 3)) -> TreeBatch:
    """Return a batch of groups with these preferences and responses of `lengths` tokens without the end of turn."""
    encoded = [encoded_group(2, [length + 1 for length in lengths], preferences) for preferences in groups]
    return collate(encoded, layout="tree", pad_id=0)


def loss_of(scores: list[float], batch: TreeBatch, **options: Any) -> float:
    """Return the loss as a number."""
    return float(BradleyTerry(**options)(torch.tensor(scores), batch)[0])


FIRST = (Preference(0, 1),)
SECOND = (Preference(1, 0),)
TIE = (Preference(0, 1, tie=True),)


def test_pair_loss_is_minus_log_sigmoid_of_the_lead() -> None:
    """One correctly and one wrongly ordered pair give the mean of log(1 + e^-1.5) and log(1 + e^2)."""
    batch = batch_of(FIRST, SECOND)
    assert loss_of([2.0, 0.5, 3.0, 1.0], batch) == pytest.approx((cost(1.5) + cost(-2.0)) / 2, rel=1e-6)


def test_margin_is_subtracted_from_the_lead() -> None:
    """A margin of 0.5 reduces every lead by 0.5."""
    assert loss_of([2.0, 0.5], batch_of(FIRST), margin=0.5) == pytest.approx(cost(1.0), rel=1e-6)


def test_margin_of_the_data() -> None:
    """`data` uses each preference's own margin, and 0 where it has none; a number ignores the margins of the data."""
    batch = batch_of((Preference(0, 1, margin=0.7),), FIRST)
    scores = [2.0, 0.5, 1.0, 0.0]
    assert loss_of(scores, batch, margin="data") == pytest.approx((cost(0.8) + cost(1.0)) / 2, rel=1e-6)
    assert loss_of(scores, batch) == pytest.approx((cost(1.5) + cost(1.0)) / 2, rel=1e-6)


def test_label_smoothing() -> None:
    """With smoothing 0.1 a pair costs 0.9 of its loss and 0.1 of the loss with the winner and the loser swapped."""
    expected = 0.9 * cost(1.5) + 0.1 * cost(-1.5)
    assert loss_of([2.0, 0.5], batch_of(FIRST), label_smoothing=0.1) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"margin": 0.5}, {"margin": "data"}, {"label_smoothing": 0.2}])
def test_tie_counts_half_for_each_side(options: dict[str, Any]) -> None:
    """A tie costs the mean of both orders for any margin and smoothing, and the least at equal scores."""
    batch = batch_of((Preference(0, 1, margin=0.3, tie=True),))
    assert loss_of([2.0, 0.5], batch, **options) == pytest.approx((cost(1.5) + cost(-1.5)) / 2, rel=1e-6)
    assert loss_of([0.5, 2.0], batch, **options) == pytest.approx((cost(1.5) + cost(-1.5)) / 2, rel=1e-6)
    assert loss_of([1.0, 1.0], batch, **options) == pytest.approx(math.log(2), rel=1e-6)


def test_ignored_ties_do_not_change_the_loss() -> None:
    """Neither a tie beside a preference nor a group with only a tie changes the loss or its divisor."""
    batch = batch_of((*FIRST, *TIE), TIE, FIRST)
    scores = [2.0, 0.5, 4.0, 0.0, 1.0, 0.0]
    for weighting in ("group", "preference"):
        loss = loss_of(scores, batch, ties="ignore", weighting=weighting, centring=0.1)
        expected = (cost(1.5) + cost(1.0)) / 2 + 0.1 * (2.5**2 + 1.0**2) / 2
        assert loss == pytest.approx(expected, rel=1e-6)


def test_centring_penalises_the_sum_of_a_pair() -> None:
    """`centring` adds its multiple of the mean of (winner + loser)^2, reported as a separate part."""
    loss, parts = BradleyTerry(centring=0.1)(torch.tensor([2.0, 0.5, 1.0, -3.0]), batch_of(FIRST, SECOND))
    assert parts.keys() == {"ranking", "centring"}
    assert float(parts["ranking"]) == pytest.approx((cost(1.5) + cost(-4.0)) / 2, rel=1e-6)
    assert float(parts["centring"]) == pytest.approx(0.1 * (2.5**2 + 2.0**2) / 2, rel=1e-6)
    assert float(loss) == pytest.approx(float(parts["ranking"]) + float(parts["centring"]), rel=1e-6)


def test_length_normalisation_divides_by_the_logarithm_of_the_length() -> None:
    """Scores of responses of 1 and 7 tokens are divided by log 2 and log 8, for both ranking and centring."""
    batch = batch_of(FIRST, lengths=(1, 7))
    first_score, second_score = 2.0 / math.log(2), 4.0 / math.log(8)
    loss = loss_of([2.0, 4.0], batch, length_normalisation=True, centring=0.1)
    assert loss == pytest.approx(cost(first_score - second_score) + 0.1 * (first_score + second_score) ** 2, rel=1e-6)


def test_group_weighting_counts_every_group_once() -> None:
    """With `group`, four ranked responses (six preferences) count as much as one pair; with `preference`, six times."""
    encoded = [encoded_group(2, [3] * 4, rank_preferences(range(4))), encoded_group(2, [3, 3], FIRST)]
    batch = collate(encoded, layout="tree", pad_id=0)
    scores = [4.0, 2.5, 1.0, 0.5, 0.0, 1.0]
    pair_costs = [cost(scores[i] - scores[j]) for i in range(4) for j in range(i + 1, 4)]
    assert loss_of(scores, batch) == pytest.approx((sum(pair_costs) / 6 + cost(-1.0)) / 2, rel=1e-6)
    assert loss_of(scores, batch, weighting="preference") == pytest.approx((sum(pair_costs) + cost(-1.0)) / 7, rel=1e-6)


@pytest.mark.parametrize("weighting", ["group", "preference"])
def test_preference_weights_multiply_the_loss(weighting: str) -> None:
    """A preference of weight 3 costs three times as much, and the other preferences cost the same."""
    batch = batch_of((Preference(0, 1, weight=3.0),), FIRST)
    loss = loss_of([2.0, 0.5, 1.0, 0.0], batch, weighting=weighting)
    assert loss == pytest.approx((3 * cost(1.5) + cost(1.0)) / 2, rel=1e-6)


@pytest.mark.parametrize("weighting", ["group", "preference"])
@pytest.mark.parametrize("ties", ["half", "ignore"])
def test_gradients_equal_finite_differences(weighting: Any, ties: Any) -> None:
    """With all options the gradient equals finite differences in double precision."""
    groups = [
        encoded_group(2, [2, 5, 3], (Preference(0, 1, 2.0, 0.4), Preference(2, 1), Preference(0, 2, tie=True))),
        encoded_group(3, [4, 2], (Preference(1, 0, margin=1.0),)),
    ]
    batch = collate(groups, layout="tree", pad_id=0)
    loss = BradleyTerry(
        margin="data", label_smoothing=0.1, centring=0.2, length_normalisation=True, weighting=weighting, ties=ties
    )
    scores = torch.tensor([0.3, -1.2, 2.0, 0.5, 0.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: loss(s, batch)[0], scores)


def test_large_leads_give_finite_numbers() -> None:
    """A lead of ten thousand in either direction overflows neither the loss nor its gradient."""
    scores = torch.tensor([1e4, 0.0, 1e4, 0.0], requires_grad=True)
    loss, _ = BradleyTerry()(scores, batch_of(FIRST, SECOND))
    loss.backward()
    assert loss.item() == pytest.approx(5e3, rel=1e-6)
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([0.0, 0.0, 0.5, -0.5])


def test_batch_without_preferences_has_zero_loss() -> None:
    """Groups without preferences give a loss and a gradient of 0, and do not reduce the loss of other groups."""
    scores = torch.tensor([1.0, 2.0], requires_grad=True)
    loss, _ = BradleyTerry(centring=0.1)(scores, batch_of(()))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None
    assert scores.grad.tolist() == [0, 0]
    assert loss_of([1.0, 2.0, 2.0, 0.5], batch_of((), FIRST)) == pytest.approx(cost(1.5), rel=1e-6)


@pytest.mark.parametrize(("option", "value"), [("label_smoothing", 0.5), ("label_smoothing", -0.1), ("centring", -1.0)])
def test_numbers_out_of_range_are_refused(option: str, value: float) -> None:
    """A smoothing that would reverse preferences, or a negative weight, is refused by the name of the option."""
    with pytest.raises(RecipeError, match=f"{option}: expected a number .*; {value} given"):
        make({"_target_": "bradley_terry", option: value}, "losses")
