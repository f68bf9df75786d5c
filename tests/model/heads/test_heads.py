"""Heads against torch's own formulas and parameters counted by hand."""

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


def parameters(head: nn.Module) -> int:
    """How many numbers a head learns."""
    return sum(p.numel() for p in head.parameters())


def seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` gives after a seed."""
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
def test_a_head_has_the_parameters_of_its_shape(head: nn.Module, count: int) -> None:
    """As many parameters as counted by hand, and one float32 score a response."""
    assert parameters(head) == count
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
def test_the_activation_stands_after_every_layer_but_the_last(activation: Any, layers: int) -> None:
    """An MLP is `W x + b` and the activation in turn, without an activation at the end."""
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


def test_the_linear_head_is_one_product() -> None:
    """A linear head's score is `w x + b`."""
    head = Linear(6)
    nn.init.normal_(head.score.bias)
    pooled = torch.randn(3, 6)
    torch.testing.assert_close(head(pooled), (pooled * head.score.weight[0]).sum(-1) + head.score.bias)


def test_dropout_acts_in_training_only() -> None:
    """Scores in training change from pass to pass; in evaluation they are those of the same head without dropout."""
    head, plain = (seeded(0, lambda p=p: MLP(8, layers=3, dropout=p)) for p in (0.5, 0.0))
    pooled = torch.randn(4, 8)
    assert not torch.equal(head.train()(pooled), head(pooled))
    assert torch.equal(head.eval()(pooled), plain.eval()(pooled))
    assert torch.equal(plain.train()(pooled), plain(pooled))


def test_dropout_stands_before_every_layer_but_the_first() -> None:
    """With all hidden units dropped only the last layer's bias is left; a head of one layer drops nothing."""
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
def test_the_seed_decides_the_first_weights(make: Callable[[], nn.Module]) -> None:
    """The same seed gives the same weights, another seed others."""
    one, same, other = (list(seeded(seed, make).parameters()) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_first_scores_spread_near_one(layers: int) -> None:
    """Normal inputs give scores around zero with a spread near one at every depth: no sigmoid begins saturated."""
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
def test_a_head_with_a_number_out_of_range_is_refused(head: dict[str, Any], message: str) -> None:
    """`check` finds it without importing the head, and `make` says the same."""
    assert [f"{key}: {text}" for key, text in check_node(head, "heads")[1]] == [message]
    with pytest.raises(RecipeError, match=re.escape(message)):
        make(head, "heads", 8)


def test_a_head_that_is_larger_than_the_memory_is_refused_before_it_is_made() -> None:
    """64 layers of 131,072 by 131,072 weights would take 4 TiB; a small one passes."""
    node = {"_target_": "mlp", "layers": 64, "width": 131_072}
    with pytest.raises(ModelError, match="GiB"):
        check_head_size(node, hidden_size=64)
    check_head_size({"_target_": "mlp", "layers": 3}, hidden_size=64)
