"""Liger's kernels: refused where they cannot run, and which modules they would take over where they can."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from basereward import build, load_recipe
from basereward.data.batching.tree_batch import TreeBatch
from basereward.errors import ModelError
from basereward.model.attention.kernels import is_rms_norm, is_swiglu
from basereward.model.backbone import load_backbone
from basereward.model.families.registry import liger_types
from tests.helpers.support import SMALL

FolderOf = Callable[[str], Path]
INSTALLED = importlib.util.find_spec("liger_kernel") is not None
ON_GPU = torch.cuda.is_available()


@pytest.mark.skipif(INSTALLED and ON_GPU, reason="Liger's kernels can run here")
def test_kernels_that_cannot_run_are_refused(folder_of: FolderOf) -> None:
    """With the key, the value, everything that is lacking and what is allowed."""
    with pytest.raises(ModelError) as caught:
        load_backbone(folder_of("llama"), kernels="liger")
    message = str(caught.value)
    assert message.startswith("model.backbone.kernels is 'liger', and ")
    assert ("there is no NVIDIA GPU" in message) is not ON_GPU
    assert ("pip install 'basereward[liger]'" in message) is not INSTALLED
    assert message.endswith("Allowed without: none.")


@pytest.mark.skipif(INSTALLED and ON_GPU, reason="Liger's kernels can run here")
def test_a_run_with_kernels_that_cannot_run_ends_before_it_begins() -> None:
    """No run folder is made and no data are read."""
    with pytest.raises(ModelError, match=r"model\.backbone\.kernels"):
        build(load_recipe("basereward", overrides=[*SMALL, "model.backbone.kernels=liger", "trainer.accelerator=auto"]))


@pytest.mark.parametrize("family", liger_types())
def test_every_norm_and_feed_forward_network_is_found(family: str, folder_of: FolderOf) -> None:
    """Two norms and a feed-forward network a layer and a norm at the end; Qwen3 has norms of queries and keys besides,
    and Qwen2.5-VL's vision tower is made of the same."""
    transformer = load_backbone(folder_of(family)).transformer
    layers = transformer.config.get_text_config().num_hidden_layers
    norms = 4 if "qwen3" in family else 2
    vision = {"qwen2_5_vl": 2 * 2 + 1}.get(family, 0)  # two norms a block and one before the merger
    assert sum(map(is_rms_norm, transformer.modules())) == norms * layers + 1 + vision
    assert sum(map(is_swiglu, transformer.modules())) == layers + (2 if vision else 0)
    file = __import__(type(transformer).__module__, fromlist=["_"])
    assert callable(file.apply_rotary_pos_emb)


@pytest.mark.gpu
@pytest.mark.skipif(not INSTALLED, reason="liger-kernel is not installed")
def test_fused_and_plain_kernels_agree(folder_of: FolderOf, pictures: TreeBatch) -> None:
    """Hidden states of one model are those of the other, which keeps its own kernels, and gradients reach as far."""
    plain, fused = (load_backbone(folder_of("qwen2_5_vl"), kernels=kind).cuda().train() for kind in ("none", "liger"))
    batch = pictures.to(torch.device("cuda"))
    expected, found = plain(batch), fused(batch)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    expected.square().sum().backward()
    found.square().sum().backward()
    for (name, one), (_, other) in zip(plain.named_parameters(), fused.named_parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
