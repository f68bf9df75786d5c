"""Tiny models load with the ordinary loading code, and the same seed gives bit-identical weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from basereward.model.backbone import load_backbone
from basereward.model.families.lm_head import load_language_head
from basereward.model.families.processing import load_encoder
from basereward.recipe import make
from basereward.recipe.checks.targets import short_names
from tests.helpers.support import group

SIZES = {"hidden_size": 64, "layers": 2, "vision_layers": 2}
TEXT_ONLY = ("tiny_qwen3",)


def write_model(maker: str, folder: Path, **options: Any) -> Path:
    """Write a checkpoint of two layers and width 64 to a new folder."""
    sizes = {name: size for name, size in SIZES.items() if maker not in TEXT_ONLY or name != "vision_layers"}
    make({"_target_": maker, **sizes, **options}, "tiny_models", folder)
    return folder


@pytest.mark.parametrize("maker", short_names("tiny_models"))
def test_model_loads_as_written(maker: str, tmp_path: Path) -> None:
    """The loaded backbone has the requested family and sizes and every weight of the file except the language head's.

    The encoder has the family's image processor.
    """
    folder = write_model(maker, tmp_path / maker)
    backbone = load_backbone(folder)
    config: Any = backbone.transformer.config
    assert config.model_type == maker.removeprefix("tiny_")
    text_config = config.get_text_config()
    assert (text_config.hidden_size, text_config.num_hidden_layers) == (64, 2)
    loaded_sums = sorted(weight.double().sum().item() for weight in backbone.transformer.state_dict().values())
    head = load_language_head(folder, config)
    if head.weight is not None:
        loaded_sums = sorted([*loaded_sums, head.weight.double().sum().item()])
    stored_sums = sorted(weight.double().sum().item() for weight in load_file(folder / "model.safetensors").values())
    assert loaded_sums == stored_sums
    encoder = load_encoder(folder)
    assert (encoder.image_processor is None) == (maker in TEXT_ONLY) == (not backbone.reads_images)
    if maker not in TEXT_ONLY:
        # For 56 x 84 pixels InternVL makes six tiles and a thumbnail of the image, with four tokens each.
        tokens = int((encoder(group(images=1)).prefix == encoder.image_token_id).sum())
        assert tokens == {"tiny_qwen2_5_vl": 6, "tiny_qwen2_vl": 6, "tiny_qwen3_vl": 6, "tiny_internvl": 28}[maker]


@pytest.mark.parametrize("maker", short_names("tiny_models"))
def test_seed_sets_the_weights(maker: str, tmp_path: Path) -> None:
    """Weights are bit-identical whatever was sampled before, and another seed gives other matrices.

    The caller's generator does not change.
    """
    first = load_file(write_model(maker, tmp_path / "first", seed=7) / "model.safetensors")
    torch.manual_seed(1234)
    expected_sample = torch.rand(3)
    torch.manual_seed(1234)
    same_seed = load_file(write_model(maker, tmp_path / "again", seed=7) / "model.safetensors")
    assert torch.equal(torch.rand(3), expected_sample)
    other_seed = load_file(write_model(maker, tmp_path / "other", seed=8) / "model.safetensors")
    assert first.keys() == same_seed.keys() == other_seed.keys()
    assert all(torch.equal(first[name], same_seed[name]) for name in first)
    assert not any(torch.equal(first[name], other_seed[name]) for name in first if first[name].ndim > 1)


@pytest.mark.parametrize("maker", short_names("tiny_models"))
def test_weights_have_the_requested_spread(maker: str, tmp_path: Path) -> None:
    """Every large matrix has the standard deviation `initializer_range`, within 10 %."""
    weights = load_file(write_model(maker, tmp_path / maker, initializer_range=0.05) / "model.safetensors")
    for name, weight in weights.items():
        if weight.ndim > 1 and weight.numel() >= 1024:
            assert weight.double().std().item() == pytest.approx(0.05, rel=0.1), name
