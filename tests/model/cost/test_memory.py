"""The memory estimate of training, compared with the bytes that torch stores."""

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
    """Return a model wide enough that the memory of its tokens exceeds the memory that is fixed per batch."""
    folder = tmp_path_factory.mktemp("wide")
    tiny_qwen2_5_vl(folder, hidden_size=256, layers=4, vision_layers=3)
    return folder


@pytest.fixture(scope="module")
def batch(folder: Path) -> TreeBatch:
    """Return a batch of some hundreds of tokens."""
    encoder = load_encoder(folder)
    return collate([encoder(item) for item in mixed_groups(vision=True)], layout="tree", pad_id=encoder.pad_id)


def model_recipe(*, lora: LoraRecipe | None = None, pooling: PoolingName = "last", **backbone: Any) -> ModelRecipe:
    """Return the recipe of a linear head on a backbone with these options."""
    return ModelRecipe(backbone=BackboneRecipe(**backbone), lora=lora, head={"_target_": "linear"}, pooling=pooling)


def measure_saved_bytes(model: RewardModel, batch: TreeBatch, *, mixed: bool) -> int:
    """Return the bytes that torch saves for the backward pass, every storage once and without weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        model(batch)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def pass_tokens(batch: TreeBatch, *, pooled: int | None = None) -> PassTokens:
    """Return the numbers of tokens, of pooled tokens (one per response by default) and of patches."""
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
def test_activation_estimate_is_close_to_torch(
    options: dict[str, Any], mixed: bool, folder: Path, batch: TreeBatch
) -> None:
    """The estimate lies between 0.85 and 1.25 of the measured bytes, temporary memory of a layer included."""
    model = build_model(model_recipe(**options), path=str(folder), seed=0)
    measured = measure_saved_bytes(model, batch, mixed=mixed)
    pooled = int((batch.rows.branch > 0).sum()) if "pooling" in options else None
    expected = memory(model, pass_tokens(batch, pooled=pooled), mixed=mixed)
    assert 0.85 * measured < expected.activations + expected.copies < 1.25 * measured


def test_checkpointed_layer_stores_its_input_only(folder: Path, batch: TreeBatch, tmp_path: Path) -> None:
    """Every further layer needs 4 bytes per channel and token, both measured and estimated, since one layer is
    recomputed at a time."""
    tiny_qwen2_5_vl(tmp_path / "lower", hidden_size=256, layers=2, vision_layers=3)
    recipe = model_recipe(gradient_checkpointing=True)
    deep, shallow = (build_model(recipe, path=str(path), seed=0) for path in (folder, tmp_path / "lower"))
    inputs = 2 * 4 * 256 * batch.rows.input_ids.numel()
    assert measure_saved_bytes(deep, batch, mixed=False) - measure_saved_bytes(
        shallow, batch, mixed=False
    ) == pytest.approx(inputs, rel=0.02)
    size = pass_tokens(batch)
    assert memory(deep, size).activations - memory(shallow, size).activations == inputs
    assert memory(deep, size).activations < memory(outline(model_recipe(), path=str(folder)), size).activations / 2


def test_weights_gradients_and_moments_are_exact(folder: Path) -> None:
    """The estimate is exact for full training and for float32 adapters on bfloat16 weights."""
    size = PassTokens(10, 2)
    full = build_model(model_recipe(), path=str(folder), seed=0)
    num_parameters = sum(parameter.numel() for parameter in full.parameters())
    estimate = memory(full, size)
    assert (estimate.weights, estimate.gradients, estimate.moments) == (
        4 * num_parameters,
        4 * num_parameters,
        8 * num_parameters,
    )
    adapted = build_model(model_recipe(lora=LoraRecipe(rank=4), dtype="bfloat16"), path=str(folder), seed=0)
    num_trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    head_size = full.head.score.weight.numel() + 1  # type: ignore[union-attr,operator]
    estimate = memory(adapted, size)
    assert estimate.weights == 2 * (num_parameters - head_size) + 4 * num_trained
    assert (estimate.gradients, estimate.moments) == (4 * num_trained, 8 * num_trained)
    assert (
        estimate.peak
        == estimate.weights + estimate.gradients + estimate.moments + estimate.copies + estimate.activations
    )


def test_quantisation_reduces_moments_and_weights(folder: Path) -> None:
    """Eight-bit moments need a quarter except for small weights, and int8 layers a quarter of their weights; nf4 is
    compared too."""
    size = PassTokens(10, 2)
    model = outline(model_recipe(), path=str(folder))
    num_small = sum(parameter.numel() for parameter in model.parameters() if parameter.numel() < 4096)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert memory(model, size, eight_bit=True).moments == 2 * (num_parameters - num_small) + 8 * num_small
    layer_bytes = 4 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 1024)
    int8_saving = memory(model, size).weights - memory(model, size, quantization="int8").weights
    assert int8_saving == 3 * layer_bytes
    nf4_saving = memory(model, size).weights - memory(model, size, quantization="nf4").weights
    assert nf4_saving == pytest.approx((4 - 0.516) * layer_bytes, rel=1e-3)
