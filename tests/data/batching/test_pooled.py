"""Batches of pooled states beside those of tokens."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch

from basereward.data.batching.collate import collate
from basereward.data.batching.pooled import PooledDataset, PooledGroup, collate_pooled
from basereward.data.schema.group import Preference
from tests.helpers.support import encoded_group


def test_a_batch_of_states_tells_what_a_batch_of_tokens_tells() -> None:
    """All that losses, metrics and records read is equal, margins that are none included; rows alone are missing."""
    own = (Preference(2, 0, weight=0.5), Preference(0, 1, tie=True), Preference(1, 2, margin=0.25))
    groups = [
        encoded_group(2, [2, 4], (Preference(1, 0),), name="one", source="a"),
        encoded_group(3, [5], (), name="two", source="b"),
        encoded_group(1, [1, 3, 6], own, name="three", source="a"),
    ]
    states = [torch.randn(2, 4), torch.randn(1, 4), torch.randn(3, 4)]
    known = [
        PooledGroup(each.id, each.source, each.preferences, tuple(len(branch) - 1 for branch in each.branches), state)
        for each, state in zip(groups, states, strict=True)
    ]
    expected, found = collate(groups, layout="tree", pad_id=0), collate_pooled(known)
    assert found.pooled is not None
    assert torch.equal(found.pooled, torch.cat(states))
    assert found.rows.input_ids.numel() == 0
    for name in ("ids", "sources", "responses", "lengths"):
        assert_same(getattr(found, name), getattr(expected, name))
    for field in fields(found.preferences):
        assert_same(getattr(found.preferences, field.name), getattr(expected.preferences, field.name))
    assert found.num_groups == 3


def assert_same(one: Any, other: Any) -> None:
    """Equal, where numbers that are none are equal too."""
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    else:
        assert one == other


def test_a_batch_of_states_moves_with_them() -> None:
    """From one device to another, in the type that its copies have."""
    batch = collate_pooled([PooledGroup("g", "s", (), (3,), torch.ones(1, 2))]).to("meta")
    assert batch.pooled is not None
    assert batch.pooled.is_meta
    assert batch.lengths.is_meta


def test_groups_are_found_by_their_place() -> None:
    """As the sampler asks for them."""
    group = PooledGroup("g", "s", (), (3,), torch.ones(1, 2))
    dataset = PooledDataset({(1, 5): group})
    assert len(dataset) == 1
    assert dataset[1, 5] is group
