"""Test that a layout that the backbone does not support is refused before training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from basereward import build, load_recipe
from basereward.errors import ModelError
from basereward.model.families.processing import load_encoder
from tests.helpers.support import SMALL, checkpoint

TEXT_ONLY = [override for override in SMALL if "digits" not in override and ".make." not in override]


@pytest.fixture(scope="module")
def bloom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint with a chat template of a family that supports plain rows only."""
    folder = checkpoint("qwen2", tmp_path_factory.mktemp("bloom") / "model")
    vocabulary = len(load_encoder(folder).tokenizer)  # type: ignore[arg-type]
    torch.manual_seed(0)
    BloomForCausalLM(BloomConfig(vocab_size=vocabulary, hidden_size=32, n_layer=2, n_head=4)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("layout", ["tree", "plain"])
def test_family_without_tree_rows_is_refused_by_build(layout: str, bloom: Path) -> None:
    """With plain rows the run is built."""
    overrides = [f"model.backbone.path={bloom}", "model.backbone.make=null", "data.sources.digits=null"]
    recipe = load_recipe("basereward", overrides=[*TEXT_ONLY, *overrides, f"batch.layout={layout}"])
    if layout == "plain":
        build(recipe)
        return
    with pytest.raises(ModelError, match=r"bloom.*batch\.layout=plain"):
        build(recipe)
