"""Test that a policy is transformers' own model, and that its processor takes rows with and without images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from basereward.errors import ModelError
from basereward.model.policy import load_policy
from tests.helpers.support import checkpoint, picture


def test_processor_takes_rows_with_and_without_images(tmp_path: Path) -> None:
    """Pixels are those of all images in their order; shorter rows are padded on the left."""
    processor = load_policy(checkpoint("qwen2_5_vl", tmp_path)).processor
    image = processor.image_token  # type: ignore[union-attr]
    texts = [f"{image}?", "nothing to see here", f"{image}{image}"]
    images = [[picture(0)], [], [picture(1), picture(2)]]
    together = processor(text=texts, images=images, padding=True, return_tensors="pt")
    alone = [
        processor(text=text, images=own, return_tensors="pt")["pixel_values"]
        for text, own in zip(texts, images, strict=True)
        if own
    ]
    assert torch.equal(together["pixel_values"], torch.cat(alone))
    assert together["attention_mask"][0, 0] == 0
    assert torch.equal(together["mm_token_type_ids"] == 1, together["input_ids"] == processor.image_token_id)  # type: ignore[union-attr]
    without = processor(text=texts[1:2], images=[None], return_tensors="pt")
    assert "pixel_values" not in without


def test_text_only_model_has_its_tokenizer(tmp_path: Path) -> None:
    """It pads on the left too."""
    policy = load_policy(checkpoint("qwen3", tmp_path))
    assert policy.processor(["a", "abc"], padding=True)["attention_mask"][0] == [0, 0, 1]


def test_families_that_cannot_be_a_policy_and_missing_weights_are_refused(tmp_path: Path) -> None:
    """A backbone without its language-model head would write noise."""
    with pytest.raises(ModelError, match="internvl"):
        load_policy(checkpoint("internvl", tmp_path / "internvl"))
    folder = checkpoint("qwen2_5_vl", tmp_path / "qwen")
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lm_head"):
        load_policy(folder)
