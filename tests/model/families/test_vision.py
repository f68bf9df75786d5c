"""The pictures of batches: what goes to the language model, and which weights of the tower it comes from."""

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

FolderOf = Callable[[str], Path]


def frozen(path: Path) -> Backbone:
    """A checkpoint whose language model alone is trained."""
    backbone = load_backbone(path)
    freeze(backbone, ["vision", "merger"])
    return backbone


@pytest.mark.parametrize("family", VISION)
def test_one_by_one_or_in_one_pass_features_are_the_same(family: str, folder_of: FolderOf) -> None:
    """Those of a frozen tower, picture by picture, and those of a trained one, for pictures of several groups."""
    path = folder_of(family)
    encoder = load_encoder(path)
    batch = collate([encoder(each) for each in mixed_groups(vision=True)], layout="tree", pad_id=encoder.pad_id)
    trained, still = load_backbone(path), frozen(path)
    expected, found = (each.vision(each.transformer, batch) for each in (trained, still))
    for one, other in zip(_all(found), _all(expected), strict=True):
        assert other.requires_grad
        assert not one.requires_grad
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def _all(looks: VisionOutput) -> list[Tensor]:
    """The features of every picture in every layer."""
    return [*looks.pooler_output, *(states for level in looks.deepstack_features for states in level)]


@pytest.mark.parametrize("family", VISION)
def test_nothing_depends_on_every_weight_of_the_tower(family: str, folder_of: FolderOf) -> None:
    """Or else other processes would wait for the gradient of one, for ever."""
    backbone = load_backbone(folder_of(family))
    torch.autograd.backward(features_of_nothing(backbone.transformer))
    awaited = {name for name, _ in backbone.transformer.named_parameters() if part_of(name) != "language"}
    assert gradients(backbone.transformer).keys() == awaited


@pytest.mark.parametrize("family", VISION)
def test_kept_features_give_the_same_bits(family: str, folder_of: FolderOf) -> None:
    """A batch whose pictures were seen before is not run through the tower, and hidden states are equal bit by bit."""
    backbone = frozen(folder_of(family)).eval()
    encoder = load_encoder(folder_of(family))
    groups = mixed_groups(vision=True)

    def states() -> tuple[TreeBatch, Tensor]:
        batch = collate([encoder(each) for each in groups], layout="tree", pad_id=encoder.pad_id)
        with torch.no_grad():
            return batch, backbone(batch)

    _, expected = states()
    encoder = keep_features(
        backbone.vision,
        transformer=backbone.transformer,
        encoder=encoder,
        gib=0.01,
        device=torch.device("cpu"),
        precision="32-true",
    )
    first, computed = states()
    again, found = states()
    assert first.images.pixels is not None
    assert first.images.features is None
    assert again.images.pixels is None
    assert again.images.features is not None
    assert torch.equal(computed, expected)
    assert torch.equal(found, expected)
