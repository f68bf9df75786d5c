"""Test forward passes with a token budget: the gradient is unchanged, and a whole run works."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from basereward import build, load_recipe
from basereward.data.batching.collate import collate
from basereward.data.batching.plan import Plan
from basereward.training.fit import train
from tests.helpers.support import SMALL, gradients


def step_gradient(*overrides: str) -> tuple[dict[str, Tensor], list[int]]:
    """Return the gradient of the first step, summed over its passes like in Lightning, and the number of groups of
    every pass."""
    module, data, _ = build(load_recipe("basereward", overrides=[*SMALL, "model.head.layers=2", *overrides]))
    assert isinstance(data.plan, Plan)
    sizes = []
    for index in range(data.plan.forwards_per_step):
        places = data.plan.forward(index)
        batch = collate([data.parts["train"][place] for place in places], layout="tree", pad_id=data.encoder.pad_id)
        loss, _ = module.objective(module.model, replace(batch, step=data.step_totals(0)))
        (loss / data.plan.forwards_per_step).backward()
        sizes.append(len(places))
    return gradients(module), sizes


@pytest.mark.parametrize("modality", ["mixed", "separate"])
def test_token_budget_changes_no_gradient(modality: str) -> None:
    """Passes with different numbers of groups add up to the gradient of the whole step in one pass."""
    whole, (groups,) = step_gradient("batch.groups=8", "batch.groups_per_forward=8")
    assert groups == 8
    parts, sizes = step_gradient("batch.groups=8", "batch.tokens=330", f"batch.modality={modality}")
    assert len(sizes) > 1
    assert sum(sizes) == 8
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("ready_store")
def test_run_with_a_token_budget_counts_groups_above_it() -> None:
    """Held-out groups are batched within the budget too, and a single group above the budget is lost under a reason."""
    overrides: list[Any] = [*SMALL, "batch.tokens=90", "data.max_lost=0.9", "batch.modality=separate"]
    run = train(load_recipe("basereward", overrides=overrides))
    assert run["skipped"]["digits"]["above_batch_tokens"] > 0
    assert run["metrics"]["test/numbers/pairs"] > 0
