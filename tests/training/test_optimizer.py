"""Test AdamW by part and the learning rate schedule against hand values."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from basereward.errors import ModelError
from basereward.training.optimizer import adamw, schedule, share_of_peak


def parts() -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Return a language model with a matrix, a bias and a norm, and a head with a matrix and a bias; all values are
    one."""
    language = [
        ("w", nn.Parameter(torch.ones(3, 2))),
        ("b", nn.Parameter(torch.ones(3))),
        ("n", nn.Parameter(torch.ones(2))),
    ]
    return {"language": language, "head": [("w", nn.Parameter(torch.ones(1, 2))), ("b", nn.Parameter(torch.ones(1)))]}


def test_weight_decay_applies_to_matrices_only() -> None:
    """With zero gradients a step shrinks matrices by lr * weight_decay and leaves vectors unchanged."""
    parameters = parts()
    optimizer = adamw(parameters, lr=0.1, weight_decay=0.5)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for named_parameters in parameters.values():
        for _, parameter in named_parameters:
            expected = 1 - 0.1 * 0.5 if parameter.ndim == 2 else 1.0
            torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, expected))


def test_every_parameter_is_in_one_group_of_its_part() -> None:
    """Every weight is optimised once with its part's learning rate, or with the common rate."""
    parameters = parts()
    optimizer = adamw(parameters, lr=1e-3, lr_by_part={"head": 5e-2})
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 5
    assert rates == {
        id(parameter): 5e-2 if part == "head" else 1e-3
        for part, named_parameters in parameters.items()
        for _, parameter in named_parameters
    }


def test_first_step_has_the_learning_rate_of_the_part() -> None:
    """Adam's first step is lr against the sign of the gradient, apart from eps."""
    parameters = parts()
    optimizer = adamw(parameters, lr=0.25, lr_by_part={"head": 0.5}, betas=[0.8, 0.95], eps=1.0)
    for named_parameters in parameters.values():
        for _, parameter in named_parameters:
            parameter.grad = torch.full_like(parameter, 3.0)
    optimizer.step()
    for part, rate in (("language", 0.25), ("head", 0.5)):
        for _, parameter in parameters[part]:
            torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, 1 - rate * 3.0 / (3.0 + 1.0)))
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.95)


def test_learning_rate_for_an_untrained_part_is_refused() -> None:
    """The error names the part and the trained parts."""
    with pytest.raises(
        ModelError, match=r"lr_by_part names vision, which is not trained; trained parts are language, head\."
    ):
        adamw(parts(), lr=1e-3, lr_by_part={"vision": 1e-4, "head": 1e-2})


def test_model_without_trained_weights_is_refused() -> None:
    """Nothing to train is an error."""
    with pytest.raises(ModelError, match="nothing is trained"):
        adamw({}, lr=1e-3)


COSINE = [(1 + math.cos(math.pi * gone / 8)) / 2 for gone in range(8)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({"shape": "constant", "warmup": 0.0}, [1.0] * 10, id="constant"),
        pytest.param({"shape": "constant", "warmup": 0.4}, [0.25, 0.5, 0.75, *[1.0] * 7], id="constant-warmup"),
        pytest.param({"shape": "linear", "warmup": 0.0}, [1 - step / 10 for step in range(10)], id="linear"),
        pytest.param(
            {"shape": "linear", "warmup": 0.2}, [0.5, 1.0, *[1 - i / 8 for i in range(8)]], id="linear-warmup"
        ),
        pytest.param({"shape": "linear", "final": 0.2}, [1 - 0.8 * step / 10 for step in range(10)], id="linear-final"),
        pytest.param({"shape": "cosine", "warmup": 0.2}, [0.5, 1.0, *COSINE], id="cosine"),
        pytest.param(
            {"shape": "cosine", "warmup": 0.2, "final": 0.1},
            [0.5, 1.0, *[0.1 + 0.9 * c for c in COSINE]],
            id="cosine-final",
        ),
        pytest.param({"shape": "linear", "warmup": 1.0}, [(step + 1) / 10 for step in range(10)], id="only-warmup"),
    ],
)
def test_schedule_gives_the_learning_rate_of_every_step(settings: dict[str, Any], expected: list[float]) -> None:
    """Ten optimizer steps have the hand-computed shares of their parts' peak rates."""
    optimizer = adamw(parts(), lr=2.0, lr_by_part={"head": 6.0})
    rates = schedule(optimizer, steps=10, **settings)
    rates_of_part: dict[str, list[float]] = {"language": [], "head": []}
    for _ in range(10):
        for group in optimizer.param_groups:
            rates_of_part[group["part"]].append(group["lr"])
        optimizer.step()
        rates.step()
    assert rates_of_part["language"][::2] == pytest.approx([2.0 * share for share in expected])
    assert rates_of_part["head"][::2] == pytest.approx([6.0 * share for share in expected])


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_schedule_ends_at_the_final_share(shape: Any) -> None:
    """The share after the last step is `final`, and the shares fall after the warm-up."""
    shares = [share_of_peak(step, shape=shape, steps=50, warmup=0.1, final=0.3) for step in range(51)]
    assert shares[50] == pytest.approx(0.3)
    assert all(later < earlier for earlier, later in pairwise(shares[5:]))
