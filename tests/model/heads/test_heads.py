"""Scalar heads, compared with torch's own formulas and with parameter counts calculated by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from basereward.errors import ModelError, RecipeError
from basereward.model.heads.linear import Linear
from basereward.model.heads.mlp import MLP
from basereward.model.reward_model import check_head_size
from basereward.recipe.nodes import check_node, make


def count_parameters(head: nn.Module) -> int:
    """Return the number of trained parameters of a head."""
    return sum(parameter.numel() for parameter in head.parameters())


def seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """Return the result of `build`, called after seeding torch."""
    torch.manual_seed(seed)
    return build()


@pytest.mark.parametrize(
    ("head", "count"),
    [
        pytest.param(Linear(8), 8 + 1, id="linear"),
        pytest.param(Linear(8, bias=False), 8, id="linear-no-bias"),
        pytest.param(MLP(8, layers=1, width=4), 8 + 1, id="1"),
        pytest.param(MLP(8, layers=2, width=4), (8 * 4 + 4) + (4 + 1), id="2"),
        pytest.param(MLP(8, layers=3, width=4), (8 * 4 + 4) + (4 * 4 + 4) + (4 + 1), id="3"),
        pytest.param(MLP(8, layers=4, width=4), (8 * 4 + 4) + 2 * (4 * 4 + 4) + (4 + 1), id="4"),
        pytest.param(MLP(8, layers=5, width=4), (8 * 4 + 4) + 3 * (4 * 4 + 4) + (4 + 1), id="5"),
        pytest.param(MLP(8), (8 * 8 + 8) + (8 + 1), id="default"),
    ],
)
def test_head_has_the_expected_parameters(head: nn.Module, count: int) -> None:
    """The parameter count is the one calculated by hand, and a head returns one float32 score per response."""
    assert count_parameters(head) == count
    scores = head(torch.randn(5, 8))
    assert scores.shape == (5,)
    assert scores.dtype == torch.float32


FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "tanh": lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
    "relu": lambda x: torch.where(x > 0, x, 0.0),
    "silu": lambda x: x * torch.sigmoid(x),
}


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
@pytest.mark.parametrize("activation", FORMULAS)
def test_activation_follows_every_layer_but_the_last(activation: Any, layers: int) -> None:
    """An MLP alternates `W x + b` and the activation, without an activation at the end."""
    head = MLP(6, layers=layers, activation=activation, width=4)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.7)
    weights = list(head.parameters())
    pooled = torch.randn(7, 6)
    expected = pooled
    for index in range(layers):
        expected = expected @ weights[2 * index].T + weights[2 * index + 1]
        if index < layers - 1:
            expected = FORMULAS[activation](expected)
    torch.testing.assert_close(head(pooled), expected[:, 0])


def test_linear_head_is_one_product() -> None:
    """A linear head's score is `w x + b`."""
    head = Linear(6)
    nn.init.normal_(head.score.bias)
    pooled = torch.randn(3, 6)
    torch.testing.assert_close(head(pooled), (pooled * head.score.weight[0]).sum(-1) + head.score.bias)


def test_dropout_acts_in_training_only() -> None:
    """Dropout changes the scores from pass to pass in training; in evaluation they equal those of the head without
    dropout."""
    head, without_dropout = (
        seeded(0, lambda dropout=dropout: MLP(8, layers=3, dropout=dropout)) for dropout in (0.5, 0.0)
    )
    pooled = torch.randn(4, 8)
    assert not torch.equal(head.train()(pooled), head(pooled))
    assert torch.equal(head.eval()(pooled), without_dropout.eval()(pooled))
    assert torch.equal(without_dropout.train()(pooled), without_dropout(pooled))


def test_dropout_precedes_every_layer_but_the_first() -> None:
    """With all hidden units dropped only the bias of the last layer remains; a head of one layer has no dropout."""
    pooled = torch.randn(4, 8)
    deep, flat = MLP(8, layers=2, dropout=1.0).train(), MLP(8, layers=1, dropout=1.0).train()
    first, last = deep.layers[0], deep.layers[-1]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    nn.init.constant_(first.bias, 1.0)
    nn.init.constant_(last.bias, 0.25)
    assert deep(pooled).tolist() == [0.25] * 4
    assert torch.equal(flat(pooled), flat.eval()(pooled))


@pytest.mark.parametrize("make", [lambda: Linear(8), lambda: MLP(8, layers=3)], ids=["linear", "mlp"])
def test_seed_sets_the_initial_weights(make: Callable[[], nn.Module]) -> None:
    """The same seed gives the same weights, and another seed gives other weights."""
    weights, same_seed, other_seed = (list(seeded(seed, make).parameters()) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(weights, same_seed, strict=True))
    assert not torch.equal(weights[0], other_seed[0])


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_initial_scores_have_unit_spread(layers: int) -> None:
    """Normal inputs give scores with mean 0 and standard deviation near 1 at every depth, so that no sigmoid starts
    saturated."""
    torch.manual_seed(0)
    heads = [MLP(128, layers=layers, activation="none") for _ in range(20)]
    scores = torch.stack([head(torch.randn(256, 128)) for head in heads])
    assert float(scores.std()) == pytest.approx(1.0, abs=0.15)
    assert abs(float(scores.mean())) < 0.1


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"_target_": "mlp", "layers": 0}, "layers: expected a whole number from 1 to 64; 0 given"),
        ({"_target_": "mlp", "width": 0}, "width: expected a whole number from 1 to 131072 or null; 0 given"),
        ({"_target_": "mlp", "dropout": 1.0}, "dropout: expected a number from 0 to below 1; 1.0 given"),
        ({"_target_": "critic", "language_weight": -1}, "language_weight: expected a number of at least 0; -1 given"),
        ({"_target_": "critic", "samples": 0}, "samples: expected a whole number from 1 to 64; 0 given"),
        ({"_target_": "generative", "votes": 16}, "votes: expected a whole number from 1 to 15; 16 given"),
        ({"_target_": "generative", "top_p": 0}, "top_p: expected a number above 0 and at most 1; 0 given"),
        ({"_target_": "rating", "scale": 10}, "scale: expected a whole number from 2 to 9; 10 given"),
    ],
)
def test_head_with_a_number_out_of_range_is_refused(head: dict[str, Any], message: str) -> None:
    """`check_node` finds the fault without importing the head, and `make` raises the same message."""
    assert [f"{key}: {text}" for key, text in check_node(head, "heads")[1]] == [message]
    with pytest.raises(RecipeError, match=re.escape(message)):
        make(head, "heads", 8)


def test_head_larger_than_the_memory_is_refused() -> None:
    """A head of 64 layers of 131,072 by 131,072 weights (4 TiB) is refused before it is built; a small one passes."""
    node = {"_target_": "mlp", "layers": 64, "width": 131_072}
    with pytest.raises(ModelError, match="GiB"):
        check_head_size(node, hidden_size=64)
    check_head_size({"_target_": "mlp", "layers": 3}, hidden_size=64)
