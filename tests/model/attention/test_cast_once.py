"""Casts and matrix products of a forward and backward pass in bfloat16, counted as torch dispatches them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from basereward.data.batching.tree_batch import TreeBatch
from basereward.model.backbone import Backbone, load_backbone
from basereward.model.lora import add_lora
from basereward.model.saving.casting import cast
from tests.helpers.support import fill_adapters, gradients

FolderOf = Callable[[str], Path]
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")


class DtypeCounter(TorchDispatchMode):
    """Counts matrix products by the dtypes of their inputs, and casts of states from float32 to bfloat16 by width."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.products = Counter[str]()
        self.casts = Counter[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Count a call."""
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in PRODUCTS:
            dtypes = {str(value.dtype).removeprefix("torch.") for value in args if isinstance(value, torch.Tensor)}
            self.products[" ".join(sorted(dtypes))] += 1
        if name == "_to_copy" and (args[0].dtype, result.dtype) == (torch.float32, torch.bfloat16):
            states = args[0].ndim == 3 and args[0].shape[1] == self.tokens
            self.casts[args[0].shape[-1]] += states
        return result


def adapted(folder: Path, *, dtype: torch.dtype) -> Backbone:
    """Return a backbone in training mode with adapters that are not zero."""
    backbone = load_backbone(folder, dtype=dtype)
    backbone.model = add_lora(backbone.transformer, rank=4, alpha=8.0)
    torch.manual_seed(0)
    fill_adapters(backbone)
    return backbone.train()


def test_adapters_multiply_in_bfloat16_and_stay_in_float32(folder_of: FolderOf, pictures: TreeBatch) -> None:
    """Over weights in bfloat16 no product of the forward or backward pass is in float32, without autocast either;
    gradients reach the float32 weights of the adapters."""
    backbone = adapted(folder_of("qwen2_5_vl"), dtype=torch.bfloat16)
    with DtypeCounter(pictures.rows.input_ids.shape[1]) as counter:
        backbone(pictures).float().square().sum().backward()
    assert set(counter.products) == {"bfloat16"}
    trained = {name: weight for name, weight in backbone.named_parameters() if weight.requires_grad}
    assert trained
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    assert gradients(backbone).keys() == trained.keys()


def test_adapters_in_float32_equal_adapters_in_bfloat16(folder_of: FolderOf, pictures: TreeBatch) -> None:
    """Their products round the weights to bfloat16: states are bitwise those of adapters that are stored so."""
    backbone = adapted(folder_of("qwen2_5_vl"), dtype=torch.bfloat16).eval()
    with torch.no_grad():
        in_float32 = backbone(pictures)
        cast(backbone.model, torch.bfloat16)
        assert torch.equal(backbone(pictures), in_float32)


@pytest.mark.parametrize("adapters", [False, True], ids=["weights", "adapters"])
def test_autocast_casts_every_input_once(adapters: bool, folder_of: FolderOf, pictures: TreeBatch) -> None:
    """Of the states of a layer, autocast casts the input of attention and that of the feed-forward network, once each:
    not once for each of the five layers that read them, or for each of their adapters."""
    folder = folder_of("qwen2_5_vl")
    backbone = adapted(folder, dtype=torch.float32) if adapters else load_backbone(folder).train()
    width, layers = backbone.hidden_size, backbone.transformer.config.get_text_config().num_hidden_layers
    with DtypeCounter(pictures.rows.input_ids.shape[1]) as counter, torch.autocast("cpu", torch.bfloat16):
        backbone(pictures)
    assert counter.casts[width] == 2 * layers
