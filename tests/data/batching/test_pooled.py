"""Batches of pooled states equal batches of tokens except for the rows."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch

from basereward.data.batching.collate import collate
from basereward.data.batching.pooled import PooledDataset, PooledGroup, collate_pooled
from basereward.data.schema.group import Preference
from tests.helpers.support import encoded_group


def test_pooled_batch_has_the_fields_of_a_token_batch() -> None:
    """All fields that losses, metrics and records read are equal, NaN margins included; only the rows are empty."""
    preferences = (Preference(2, 0, weight=0.5), Preference(0, 1, tie=True), Preference(1, 2, margin=0.25))
    groups = [
        encoded_group(2, [2, 4], (Preference(1, 0),), name="one", source="a"),
        encoded_group(3, [5], (), name="two", source="b"),
        encoded_group(1, [1, 3, 6], preferences, name="three", source="a"),
    ]
    states = [torch.randn(2, 4), torch.randn(1, 4), torch.randn(3, 4)]
    pooled_groups = [
        PooledGroup(
            group.id, group.source, group.preferences, tuple(len(branch) - 1 for branch in group.branches), state
        )
        for group, state in zip(groups, states, strict=True)
    ]
    expected, batch = collate(groups, layout="tree", pad_id=0), collate_pooled(pooled_groups)
    assert batch.pooled is not None
    assert torch.equal(batch.pooled, torch.cat(states))
    assert batch.rows.input_ids.numel() == 0
    for name in ("ids", "sources", "responses", "lengths"):
        assert_same(getattr(batch, name), getattr(expected, name))
    for field in fields(batch.preferences):
        assert_same(getattr(batch.preferences, field.name), getattr(expected.preferences, field.name))
    assert batch.num_groups == 3


def assert_same(one: Any, other: Any) -> None:
    """Assert equality, where NaN equals NaN."""
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    else:
        assert one == other


def test_pooled_batch_moves_to_a_device() -> None:
    """The pooled states and all other tensors are moved."""
    batch = collate_pooled([PooledGroup("g", "s", (), (3,), torch.ones(1, 2))]).to("meta")
    assert batch.pooled is not None
    assert batch.pooled.is_meta
    assert batch.lengths.is_meta


def test_dataset_is_indexed_by_place() -> None:
    """The sampler asks for a group by source and row."""
    group = PooledGroup("g", "s", (), (3,), torch.ones(1, 2))
    dataset = PooledDataset({(1, 5): group})
    assert len(dataset) == 1
    assert dataset[1, 5] is group
