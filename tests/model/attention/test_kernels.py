"""Liger kernels: errors where they cannot run, and the modules that they replace."""

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
def test_unavailable_kernels_are_refused(folder_of: FolderOf) -> None:
    """The error names the key, its value, everything that is missing and the allowed value."""
    with pytest.raises(ModelError) as excinfo:
        load_backbone(folder_of("llama"), kernels="liger")
    message = str(excinfo.value)
    assert message.startswith("model.backbone.kernels is 'liger', and ")
    assert ("there is no NVIDIA GPU" in message) is not ON_GPU
    assert ("pip install 'basereward[liger]'" in message) is not INSTALLED
    assert message.endswith("Allowed without: none.")


@pytest.mark.skipif(INSTALLED and ON_GPU, reason="Liger's kernels can run here")
def test_build_refuses_unavailable_kernels() -> None:
    """`build` raises the error before it creates a run folder or reads data."""
    with pytest.raises(ModelError, match=r"model\.backbone\.kernels"):
        build(load_recipe("basereward", overrides=[*SMALL, "model.backbone.kernels=liger", "trainer.accelerator=auto"]))


@pytest.mark.parametrize("family", liger_types())
def test_norms_and_feed_forward_networks_are_detected(family: str, folder_of: FolderOf) -> None:
    """Every layer has two norms and a feed-forward network, and the model a final norm.

    Qwen3 also normalises queries and keys, and the vision tower of Qwen2.5-VL has the same modules.
    """
    transformer = load_backbone(folder_of(family)).transformer
    layers = transformer.config.get_text_config().num_hidden_layers
    norms = 4 if "qwen3" in family else 2
    # Two norms in each of two blocks and one before the merger.
    vision_norms = {"qwen2_5_vl": 2 * 2 + 1}.get(family, 0)
    assert sum(map(is_rms_norm, transformer.modules())) == norms * layers + 1 + vision_norms
    assert sum(map(is_swiglu, transformer.modules())) == layers + (2 if vision_norms else 0)
    modeling_module = __import__(type(transformer).__module__, fromlist=["_"])
    assert callable(modeling_module.apply_rotary_pos_emb)


@pytest.mark.gpu
@pytest.mark.skipif(not INSTALLED, reason="liger-kernel is not installed")
def test_fused_and_plain_kernels_agree(folder_of: FolderOf, pictures: TreeBatch) -> None:
    """Hidden states agree, the plain model keeps its own kernels, and the same parameters get gradients."""
    plain, fused = (
        load_backbone(folder_of("qwen2_5_vl"), kernels=kernels).cuda().train() for kernels in ("none", "liger")
    )
    batch = pictures.to(torch.device("cuda"))
    expected, actual = plain(batch), fused(batch)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
    expected.square().sum().backward()
    actual.square().sum().backward()
    for (name, plain_parameter), (_, fused_parameter) in zip(
        plain.named_parameters(), fused.named_parameters(), strict=True
    ):
        assert (plain_parameter.grad is None) == (fused_parameter.grad is None), name
