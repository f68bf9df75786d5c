"""Image features of batches: equal for frozen and trained towers, connected to every weight, and unchanged by the
cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import TreeBatch
from basereward.model.backbone import Backbone, load_backbone
from basereward.model.families.parts import freeze, part_of
from basereward.model.families.processing import load_encoder
from basereward.model.families.vision import VisionOutput, features_of_nothing, keep_features
from tests.helpers.support import VISION, gradients, mixed_groups
from tests.helpers.sync_counter import SyncCounter

FolderOf = Callable[[str], Path]


def load_with_frozen_tower(path: Path) -> Backbone:
    """Return a backbone that trains its language model only."""
    backbone = load_backbone(path)
    freeze(backbone, ["vision", "merger"])
    return backbone


@pytest.mark.parametrize("family", VISION)
def test_frozen_and_trained_towers_give_equal_features(family: str, folder_of: FolderOf) -> None:
    """A frozen tower encodes image by image and a trained tower all images at once; the features are equal."""
    path = folder_of(family)
    encoder = load_encoder(path)
    batch = collate([encoder(group) for group in mixed_groups(vision=True)], layout="tree", pad_id=encoder.pad_id)
    trained, frozen = load_backbone(path), load_with_frozen_tower(path)
    expected, actual = (backbone.vision(backbone.transformer, batch) for backbone in (trained, frozen))
    for actual_features, expected_features in zip(_all_features(actual), _all_features(expected), strict=True):
        assert expected_features.requires_grad
        assert not actual_features.requires_grad
        torch.testing.assert_close(actual_features, expected_features, rtol=1e-5, atol=1e-6)


def _all_features(output: VisionOutput) -> list[Tensor]:
    """Return the features of every image in every layer."""
    return [*output.pooler_output, *(states for level in output.deepstack_features for states in level)]


@pytest.mark.parametrize("family", VISION)
def test_pass_with_pictures_waits_for_no_number(family: str, folder_of: FolderOf) -> None:
    """No operator of a pass over tree rows reads numbers on the host or has a result whose size depends on them, with
    several pictures and states of deeper layers."""
    path = folder_of(family)
    encoder, backbone = load_encoder(path), load_with_frozen_tower(path).train()
    groups = [encoder(group) for group in mixed_groups(vision=True)]
    batch = collate(groups, layout="tree", pad_id=encoder.pad_id)
    with SyncCounter() as counter:
        backbone(batch).square().sum().backward()
    # The interpolation of Qwen3-VL's learned positions reads a size of grids that are on the host anyway.
    assert dict(counter.counts) == ({"_local_scalar_dense": 1} if family == "qwen3_vl" else {})


@pytest.mark.parametrize("family", VISION)
def test_features_of_nothing_depend_on_every_weight(family: str, folder_of: FolderOf) -> None:
    """In distributed training, processes with images would otherwise wait forever for a gradient of this process."""
    backbone = load_backbone(folder_of(family))
    torch.autograd.backward(features_of_nothing(backbone.transformer))
    expected = {name for name, _ in backbone.transformer.named_parameters() if part_of(name) != "language"}
    assert gradients(backbone.transformer).keys() == expected


@pytest.mark.parametrize("family", VISION)
def test_cached_features_are_bit_identical(family: str, folder_of: FolderOf) -> None:
    """A batch of images from the cache is not run through the tower, and its hidden states are bit-identical."""
    backbone = load_with_frozen_tower(folder_of(family)).eval()
    encoder = load_encoder(folder_of(family))
    groups = mixed_groups(vision=True)

    def run_batch() -> tuple[TreeBatch, Tensor]:
        batch = collate([encoder(group) for group in groups], layout="tree", pad_id=encoder.pad_id)
        with torch.no_grad():
            return batch, backbone(batch)

    _, expected = run_batch()
    encoder = keep_features(
        backbone.vision,
        transformer=backbone.transformer,
        encoder=encoder,
        gib=0.01,
        device=torch.device("cpu"),
        precision="32-true",
    )
    first, computed = run_batch()
    second, from_cache = run_batch()
    assert first.images.pixels is not None
    assert first.images.features is None
    assert second.images.pixels is None
    assert second.images.features is not None
    assert torch.equal(computed, expected)
    assert torch.equal(from_cache, expected)
