"""Test returns, standardisation over ranks, both filters, and GRPO's baseline against numbers by hand and TRL's."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from basereward.rl.advantages import kept, standardise, token_returns


def filtered(rewards: list[float], variant: str) -> Tensor:
    """The filtered advantages of rollouts of one token each."""
    rows = torch.tensor(rewards)[:, None]
    standardised = standardise(rows, torch.ones_like(rows))
    return torch.where(kept(standardised, variant), standardised.values, 0.0)[:, 0]  # type: ignore[arg-type]


def test_one_wrong_answer_of_256_is_dropped_and_the_others_stay() -> None:
    """With 255 ones and one zero, p = 255/256: z of the zero is -sqrt(255), and of the ones sqrt(1/255)."""
    rows = torch.ones(256, 1)
    rows[17] = 0
    values = standardise(rows, torch.ones(256, 1)).values[:, 0]
    assert values[17].item() == pytest.approx(-math.sqrt(255), abs=1e-5)
    assert round(values[17].item(), 2) == -15.97
    after = filtered(rows[:, 0].tolist(), "paper")
    assert after[17] == 0
    assert after[:17].tolist() == pytest.approx([1 / math.sqrt(255)] * 17, abs=1e-6)


def test_released_filter_drops_every_wrong_answer_at_80_percent_right_and_the_paper_none() -> None:
    """Rewards 2.0 and 0.5 have the mean 1.7 and the deviation 0.6: wrong answers have z = -2, below 1.7 - 3."""
    rewards = [2.0] * 8 + [0.5] * 2
    released, paper = filtered(rewards, "code"), filtered(rewards, "paper")
    assert released.tolist() == pytest.approx([0.5] * 8 + [0.0] * 2, abs=1e-6)
    assert paper.tolist() == pytest.approx([0.5] * 8 + [-2.0] * 2, abs=1e-6)


def test_released_filter_drops_a_deviation_beyond_ten() -> None:
    """With a mean return of 9, z = 10.5 is within 3 of the mean and still dropped; z = 10 is not."""
    from basereward.rl.advantages import Standardised

    advantages = Standardised(torch.tensor([[10.5, 10.0]]), mean=9.0, std=1.0)
    assert kept(advantages, "code").tolist() == [[False, True]]


def test_returns_add_the_penalties_of_later_tokens() -> None:
    """R = 1 and KL 0.1, 0.2, 0.3 with beta 0.5 give 1 - 0.3, 1 - 0.25 and 1 - 0.15; padding gives 0."""
    kl = torch.tensor([[0.1, 0.2, 0.3, 7.0], [7.0, 7.0, 7.0, 7.0]])
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0]])
    returns = token_returns(torch.tensor([1.0, float("nan")]), mask, kl=kl, beta=0.5)
    assert returns[0].tolist() == pytest.approx([0.7, 0.75, 0.85, 0.0])
    assert returns[1].tolist() == [0.0] * 4


def test_equal_returns_have_no_advantage_and_no_nan() -> None:
    """The floor of the variance is in the divisor, so nothing is divided by zero."""
    rows = torch.full((4, 3), 0.1)
    standardised = standardise(rows, torch.ones(4, 3))
    assert standardised.values.abs().max() < 1e-3
    assert standardised.std == pytest.approx(1e-4)
    assert standardise(rows, torch.zeros(4, 3)).values.abs().max() == 0


def in_ranks(count: int, work: Callable[[int, Callable[[Tensor], Tensor]], Tensor]) -> list[Tensor]:
    """Run a function in threads whose tensors are added as over ranks."""
    barrier, parts = threading.Barrier(count), [torch.zeros(0)] * count
    outcomes = [torch.zeros(0)] * count

    def rank(number: int) -> None:
        def add(values: Tensor) -> Tensor:
            parts[number] = values
            barrier.wait()
            total = torch.stack(parts).sum(0)
            barrier.wait()
            return total

        outcomes[number] = work(number, add)

    threads = [threading.Thread(target=rank, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_ranks_together_have_the_advantages_of_one_process() -> None:
    """Mean and deviation are over all tokens, also when ranks have different numbers of them."""
    torch.manual_seed(0)
    returns, mask = torch.randn(6, 5), (torch.rand(6, 5) > 0.4).long()
    whole = standardise(returns, mask).values
    parts = [slice(0, 1), slice(1, 6)]
    divided = in_ranks(2, lambda n, add: standardise(returns[parts[n]], mask[parts[n]], sum_over_ranks=add).values)
    assert torch.allclose(torch.cat(divided), whole, atol=1e-6)
    alone = standardise(returns[parts[1]], mask[parts[1]]).values
    assert not torch.allclose(alone, whole[parts[1]], atol=1e-3)
