"""What training is expected to hold is about what torch keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import TreeBatch
from basereward.model.cost.memory import PassTokens, memory
from basereward.model.cost.meta_model import outline
from basereward.model.families.processing import load_encoder
from basereward.model.reward_model import RewardModel, build_model
from basereward.model.tiny_models.tiny_qwen2_5_vl import tiny_qwen2_5_vl
from basereward.recipe.schema import BackboneRecipe, LoraRecipe, ModelRecipe, PoolingName
from tests.helpers.support import mixed_groups


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model wide enough that its tokens weigh more than what is kept once a batch."""
    made = tmp_path_factory.mktemp("wide")
    tiny_qwen2_5_vl(made, hidden_size=256, layers=4, vision_layers=3)
    return made


@pytest.fixture(scope="module")
def batch(folder: Path) -> TreeBatch:
    """Some hundreds of tokens."""
    encoder = load_encoder(folder)
    return collate([encoder(each) for each in mixed_groups(vision=True)], layout="tree", pad_id=encoder.pad_id)


def model_recipe(*, lora: LoraRecipe | None = None, pooling: PoolingName = "last", **backbone: Any) -> ModelRecipe:
    """A linear head on a backbone with some options."""
    return ModelRecipe(backbone=BackboneRecipe(**backbone), lora=lora, head={"_target_": "linear"}, pooling=pooling)


def kept(model: RewardModel, batch: TreeBatch, *, mixed: bool) -> int:
    """Bytes that torch keeps for the backward pass, every storage once, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    keep = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with keep, torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        model(batch)
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


def size_of(batch: TreeBatch, *, pooled: int | None = None) -> PassTokens:
    """Tokens, pooled ones, by default one a response, and patches."""
    assert batch.images.pixels is not None
    return PassTokens(batch.rows.input_ids.numel(), pooled or len(batch.rows.ends), len(batch.images.pixels.values))


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "mixed"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"freeze": ["vision"]},
        {"lora": LoraRecipe(rank=4)},
        {"lora": LoraRecipe(rank=4), "dtype": "bfloat16"},
        {"pooling": "mean"},
    ],
    ids=["all", "frozen vision", "adapters", "adapters on bfloat16", "mean"],
)
def test_activations_are_about_what_torch_keeps(
    options: dict[str, Any], mixed: bool, folder: Path, batch: TreeBatch
) -> None:
    """To a fifth, what comes and goes in a layer counted with them."""
    model = build_model(model_recipe(**options), path=str(folder), seed=0)
    found = kept(model, batch, mixed=mixed)
    pooled = int((batch.rows.branch > 0).sum()) if "pooling" in options else None
    expected = memory(model, size_of(batch, pooled=pooled), mixed=mixed)
    assert 0.85 * found < expected.activations + expected.copies < 1.25 * found


def test_a_further_checkpointed_layer_keeps_its_input_alone(folder: Path, batch: TreeBatch, tmp_path: Path) -> None:
    """4 bytes a channel and token, by torch's account and by ours; at work there is one layer at a time."""
    tiny_qwen2_5_vl(tmp_path / "lower", hidden_size=256, layers=2, vision_layers=3)
    recipe = model_recipe(gradient_checkpointing=True)
    high, low = (build_model(recipe, path=str(path), seed=0) for path in (folder, tmp_path / "lower"))
    inputs = 2 * 4 * 256 * batch.rows.input_ids.numel()
    assert kept(high, batch, mixed=False) - kept(low, batch, mixed=False) == pytest.approx(inputs, rel=0.02)
    size = size_of(batch)
    assert memory(high, size).activations - memory(low, size).activations == inputs
    assert memory(high, size).activations < memory(outline(model_recipe(), path=str(folder)), size).activations / 2


def test_weights_gradients_and_moments_are_counted_to_the_byte(folder: Path) -> None:
    """Of everything, and of adapters, which are in float32 on weights in bfloat16."""
    size = PassTokens(10, 2)
    full = build_model(model_recipe(), path=str(folder), seed=0)
    number = sum(p.numel() for p in full.parameters())
    found = memory(full, size)
    assert (found.weights, found.gradients, found.moments) == (4 * number, 4 * number, 8 * number)
    adapted = build_model(model_recipe(lora=LoraRecipe(rank=4), dtype="bfloat16"), path=str(folder), seed=0)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    head = full.head.score.weight.numel() + 1  # type: ignore[union-attr,operator]
    found = memory(adapted, size)
    assert found.weights == 2 * (number - head) + 4 * trained
    assert (found.gradients, found.moments) == (4 * trained, 8 * trained)
    assert found.peak == found.weights + found.gradients + found.moments + found.copies + found.activations


def test_eight_bits_make_moments_and_weights_small(folder: Path) -> None:
    """A quarter of the moments, but for those of small weights; a quarter of the quantised weights of the layers."""
    size = PassTokens(10, 2)
    model = outline(model_recipe(), path=str(folder))
    small = sum(p.numel() for p in model.parameters() if p.numel() < 4096)
    number = sum(p.numel() for p in model.parameters())
    assert memory(model, size, eight_bit=True).moments == 2 * (number - small) + 8 * small
    layers = 4 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 1024)
    saved = memory(model, size).weights - memory(model, size, quantization="int8").weights
    assert saved == 3 * layers
    four_bits = memory(model, size).weights - memory(model, size, quantization="nf4").weights
    assert four_bits == pytest.approx((4 - 0.516) * layers, rel=1e-3)
