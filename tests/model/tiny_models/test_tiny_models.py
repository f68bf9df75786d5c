"""Makers write what the ordinary loading code reads, and the same bits for the same seed."""

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


def write(maker: str, folder: Path, **given: Any) -> Path:
    """A checkpoint of two layers, 64 wide, in a new folder."""
    sizes = {name: size for name, size in SIZES.items() if maker not in TEXT_ONLY or name != "vision_layers"}
    make({"_target_": maker, **sizes, **given}, "tiny_models", folder)
    return folder


@pytest.mark.parametrize("maker", short_names("tiny_models"))
def test_what_is_made_is_what_loads(maker: str, tmp_path: Path) -> None:
    """The backbone that the ordinary code loads has the family and sizes that were asked for, and every weight of the
    file but the language head's; the encoder knows the family's pictures."""
    folder = write(maker, tmp_path / maker)
    backbone = load_backbone(folder)
    config: Any = backbone.transformer.config
    assert config.model_type == maker.removeprefix("tiny_")
    text = config.get_text_config()
    assert (text.hidden_size, text.num_hidden_layers) == (64, 2)
    read = sorted(weight.double().sum().item() for weight in backbone.transformer.state_dict().values())
    head = load_language_head(folder, config)
    if head.weight is not None:
        read = sorted([*read, head.weight.double().sum().item()])
    written = sorted(weight.double().sum().item() for weight in load_file(folder / "model.safetensors").values())
    assert read == written
    encoder = load_encoder(folder)
    assert (encoder.image_processor is None) == (maker in TEXT_ONLY) == (not backbone.reads_images)
    if maker not in TEXT_ONLY:
        # Of 56 x 84 pixels: InternVL makes six tiles of it and a small one of the whole, of four tokens each.
        tokens = int((encoder(group(images=1)).prefix == encoder.image_token_id).sum())
        assert tokens == {"tiny_qwen2_5_vl": 6, "tiny_qwen2_vl": 6, "tiny_qwen3_vl": 6, "tiny_internvl": 28}[maker]


@pytest.mark.parametrize("maker", short_names("tiny_models"))
def test_the_same_seed_gives_the_same_weights(maker: str, tmp_path: Path) -> None:
    """Bit for bit, whatever was drawn before; another seed gives other matrices, and the caller's generator goes on as
    if nothing had been drawn."""
    first = load_file(write(maker, tmp_path / "first", seed=7) / "model.safetensors")
    torch.manual_seed(1234)
    expected = torch.rand(3)
    torch.manual_seed(1234)
    again = load_file(write(maker, tmp_path / "again", seed=7) / "model.safetensors")
    assert torch.equal(torch.rand(3), expected)
    other = load_file(write(maker, tmp_path / "other", seed=8) / "model.safetensors")
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if first[name].ndim > 1)


@pytest.mark.parametrize("maker", short_names("tiny_models"))
def test_weights_are_as_wide_as_was_asked(maker: str, tmp_path: Path) -> None:
    """Every matrix of the language model and the vision tower has the standard deviation of `initializer_range`, within
    what its size lets chance do."""
    weights = load_file(write(maker, tmp_path / maker, initializer_range=0.05) / "model.safetensors")
    for name, weight in weights.items():
        if weight.ndim > 1 and weight.numel() >= 1024:
            assert weight.double().std().item() == pytest.approx(0.05, rel=0.1), name
