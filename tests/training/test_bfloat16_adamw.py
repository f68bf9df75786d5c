"""AdamW for weights in bfloat16, compared with torch's AdamW in float32, and its rounding with its mean."""

from __future__ import annotations

import io
import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from basereward import build, load_recipe
from basereward.recipe import recipe_sha256
from basereward.recipe.load import find_faults
from basereward.training.bfloat16_adamw import Bfloat16AdamW, round_stochastically
from tests.helpers.support import SMALL

UPDATES: tuple[Literal["master", "stochastic"], ...] = ("master", "stochastic")
BETAS, EPS = (0.9, 0.95), 1e-8


def weights(seed: int = 0) -> list[nn.Parameter]:
    """Return a matrix and a vector in bfloat16, and a vector in float32."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (((7, 5), torch.bfloat16), ((5,), torch.bfloat16), ((3,), torch.float32))
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape, dtype in shapes]


def optimizer_of(parameters: list[nn.Parameter], update: Literal["master", "stochastic"]) -> Bfloat16AdamW:
    """Return an optimizer with two groups, of which one has weight decay."""
    groups = [
        {"params": parameters[:1], "lr": 1e-3, "weight_decay": 0.1},
        {"params": parameters[1:], "lr": 1e-3, "weight_decay": 0.0},
    ]
    return Bfloat16AdamW(groups, update=update, betas=BETAS, eps=EPS)


def set_gradients(parameters: list[nn.Parameter], step: int) -> None:
    """Set gradients that depend on the step alone, in the precision of the weights."""
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def test_master_copies_equal_adamw_in_float32() -> None:
    """After every step the master copies have the bits of torch's AdamW on float32 weights with the same gradients, and
    the weights are these, rounded once."""
    parameters = weights()
    optimizer = optimizer_of(parameters, "master")
    in_float32 = [nn.Parameter(parameter.detach().float()) for parameter in parameters]
    groups = [
        {"params": in_float32[:1], "lr": 1e-3, "weight_decay": 0.1},
        {"params": in_float32[1:], "lr": 1e-3, "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, betas=BETAS, eps=EPS, fused=True)
    for step in range(50):
        set_gradients(parameters, step)
        for own, parameter in zip(in_float32, parameters, strict=True):
            assert parameter.grad is not None
            own.grad = parameter.grad.float()
        optimizer.step()
        reference.step()
        for own, parameter in zip(in_float32, parameters, strict=True):
            assert torch.equal(parameter, own.to(parameter.dtype))
            if parameter.dtype == torch.bfloat16:
                assert torch.equal(optimizer.state[parameter]["master"], own)
    assert "master" not in optimizer.state[parameters[2]]


def test_stochastic_rounding_is_unbiased() -> None:
    """Every value goes to one of its two neighbours, and the mean of many draws is the value."""
    draws = 40_000
    generator = torch.Generator().manual_seed(0)
    for value in (1.0 + 0.3 * 2**-7, -3.0 - 0.75 * 2**-6, 1e-30 * 1.001, 0.1, -0.2):
        values = torch.full((draws,), value)
        rounded = round_stochastically(values, generator=generator).double()
        nearest = torch.tensor(value).bfloat16()
        gap = 2.0 ** (math.floor(math.log2(abs(value))) - 7)  # bfloat16 has 7 bits behind the first
        assert set(rounded.unique().tolist()) <= {float(nearest), float(nearest) - gap, float(nearest) + gap}
        assert (rounded - values.double()).abs().max() < gap
        # A draw is the lower neighbour plus the gap with probability p. Its standard deviation is gap * sqrt(p * (1 -
        # p)) <= gap / 2, that of the mean gap / 2 / sqrt(draws). Five of these are exceeded once in 1.7 million tests.
        assert abs(rounded.mean() - values.double().mean()) < 5 * gap / 2 / math.sqrt(draws)


def test_small_steps_add_up() -> None:
    """Steps of a 40th of a weight's last digit are lost by torch's AdamW, kept by master copies, and kept in the mean
    by stochastic rounding."""
    number, steps, rate = 20_000, 20, 1e-4

    def trained(update: Literal["master", "stochastic"] | None) -> Tensor:
        weight = nn.Parameter(torch.ones(number, dtype=torch.bfloat16))
        group = {"params": [weight], "lr": rate, "weight_decay": 0.0}
        optimizer: torch.optim.Optimizer
        if update is None:
            optimizer = torch.optim.AdamW([group], betas=BETAS, eps=EPS)
        else:
            optimizer = Bfloat16AdamW([group], update=update, betas=BETAS, eps=EPS)
        for _ in range(steps):
            # AdamW divides a constant gradient by its size: each step is the learning rate.
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        return weight.detach().double()

    assert torch.equal(trained(None), torch.ones(number, dtype=torch.float64))
    # Below 1 the numbers of bfloat16 are 1/256 apart, and 0.998 is 0.51 of that below 1.
    assert torch.equal(trained("master"), torch.full((number,), 1 - 2**-8, dtype=torch.float64))
    # In each step the rounding of a weight has a standard deviation of at most half a gap, and those of 20 steps add up
    # by their squares.
    bound = 5 * (2**-8 / 2) * math.sqrt(steps / number)
    assert abs(trained("stochastic").mean() - (1 - steps * rate)) < bound


@pytest.mark.parametrize("update", UPDATES)
def test_resumed_optimizer_continues_with_the_same_bits(update: Literal["master", "stochastic"]) -> None:
    """States that were written to a file after three steps give the same weights after six as a run without a stop."""
    whole, first = weights(), weights()
    optimizer, stopped = optimizer_of(whole, update), optimizer_of(first, update)
    for step in range(6):
        set_gradients(whole, step)
        optimizer.step()
    for step in range(3):
        set_gradients(first, step)
        stopped.step()
    file = io.BytesIO()
    torch.save({"optimizer": stopped.state_dict(), "weights": [weight.detach() for weight in first]}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second = weights(seed=1)
    for weight, value in zip(second, saved["weights"], strict=True):
        weight.data.copy_(value)
    resumed = optimizer_of(second, update)
    resumed.load_state_dict(saved["optimizer"])
    for step in range(3, 6):
        set_gradients(second, step)
        resumed.step()
    for weight, expected in zip(second, whole, strict=True):
        assert torch.equal(weight, expected)
    for state, expected_state in zip(resumed.state.values(), optimizer.state.values(), strict=True):
        assert state.keys() == expected_state.keys()
        assert all(torch.equal(state[name], expected_state[name]) for name in state)


@pytest.mark.usefixtures("ready_store")
def test_recipe_trains_weights_in_bfloat16() -> None:
    """A run with a learning rate that rounding to nearest would lose moves the master copies of all weights."""
    overrides = [*SMALL, "model.backbone.dtype=bfloat16", "optimizer.lr=1e-5", "trainer.steps=2"]
    recipe = load_recipe("basereward", overrides=[*overrides, "optimizer.bfloat16=master"])
    module, data, trainer = build(recipe)
    moved: list[str] = []
    before = {name: weight.detach().clone() for name, weight in module.model.named_parameters()}
    trainer.fit(module, data)
    optimizer = trainer.optimizers[0]
    assert isinstance(optimizer, Bfloat16AdamW)
    for name, weight in module.model.named_parameters():
        if "master" in optimizer.state.get(weight, {}):
            master = optimizer.state[weight]["master"]
            assert not torch.equal(master, before[name].float()), name
            moved.append(name)
    assert len(moved) > 20


def test_hash_of_a_recipe_without_the_key_stays() -> None:
    """The defaults of keys that were added later do not count for the hash of a recipe; other values do."""
    plain, none, master = (
        recipe_sha256(load_recipe("basereward", overrides=[*SMALL, *overrides]))
        for overrides in (
            [],
            ["model.backbone.kernels=none"],
            ["model.backbone.dtype=bfloat16", "optimizer.bfloat16=master"],
        )
    )
    assert plain == none
    assert plain != master


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], "model.backbone.dtype is float32"),
        (["model.backbone.dtype=bfloat16", "model.lora.rank=4"], "adapters and head are in float32"),
        (["model.backbone.dtype=bfloat16", "probe=true"], "frozen"),
        (["model.backbone.dtype=bfloat16", "optimizer.kind=adamw_8bit"], "needs optimizer.kind=adamw"),
    ],
    ids=["float32", "adapters", "probe", "8 bits"],
)
def test_check_refuses_updates_without_effect(overrides: list[str], words: str) -> None:
    """The error names the key and the setting that stands against it."""
    _, faults = find_faults("basereward", overrides=[*SMALL, "optimizer.bfloat16=master", *overrides])
    messages = [fault.message for fault in faults if fault.key == "optimizer.bfloat16"]
    assert len(messages) == 1
    assert words in messages[0]
