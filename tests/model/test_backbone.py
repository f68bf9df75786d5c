"""Backbones: what is loaded, what is refused, what is trained, and in which precision."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, LlavaConfig, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import TreeBatch
from basereward.errors import ModelError
from basereward.model.backbone import load_backbone, load_config
from basereward.model.families.registry import vision_types
from basereward.model.losses.bradley_terry import BradleyTerry
from basereward.model.reward_model import RewardModel, build_model
from basereward.recipe.schema import BackboneRecipe, LoraRecipe, ModelRecipe
from tests.helpers.support import VISION, encoded_group, gradients

FolderOf = Callable[[str], Path]
PLAN = ModelRecipe(backbone=BackboneRecipe(path="given apart"), head={"_target_": "mlp"})


def model_of(folder: Path, *, seed: int = 0, lora: LoraRecipe | None = None, **backbone: Any) -> RewardModel:
    """The model that a recipe with these settings describes."""
    return build_model(replace(PLAN, backbone=BackboneRecipe(**backbone), lora=lora), path=str(folder), seed=seed)


def text_batch(layout: Any) -> TreeBatch:
    """Two groups of text."""
    return collate([encoded_group(6, [4, 3]), encoded_group(3, [9, 2])], layout=layout, pad_id=0)


def changed(folder: Path, to: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a checkpoint with other weights."""
    shutil.copytree(folder, to)
    weights = load_file(to / "model.safetensors")
    change(weights)
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    return to


@pytest.mark.parametrize("frozen", [[], ["vision"], ["vision", "merger"], ["vision", "merger", "language"]])
def test_a_recipe_freezes_parts_and_never_the_head(frozen: list[str], folder_of: FolderOf, pictures: TreeBatch) -> None:
    """What is trained are the parts that are not frozen, and the head; only those get a gradient."""
    model = model_of(folder_of("qwen2_5_vl"), freeze=frozen)
    trained = {"vision", "merger", "language", "head"} - set(frozen)
    assert set(model.parts()) == trained
    BradleyTerry()(model(pictures), pictures)[0].backward()
    assert gradients(model).keys() == {name for named in model.parts().values() for name, _ in named}


def test_adapters_stay_trained_in_a_frozen_backbone(folder_of: FolderOf) -> None:
    """With adapters only they and the head are trained."""
    model = model_of(folder_of("qwen2_5_vl"), lora=LoraRecipe(rank=2, parts=["language", "merger"]))
    assert set(model.parts()) == {"merger", "language", "head"}
    backbone = [name for part, named in model.parts().items() for name, _ in named if part != "head"]
    assert all("lora_" in name for name in backbone)


def test_the_head_works_in_float32(folder_of: FolderOf, pictures: TreeBatch) -> None:
    """Below a bfloat16 backbone, and under autocast, the head's weights, sums and scores are float32."""
    model = model_of(folder_of("qwen2_5_vl"), dtype="bfloat16").eval()
    assert {p.dtype for p in model.backbone.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.head.parameters()} == {torch.float32}
    with torch.no_grad():
        pooled = model.backbone(pictures)
        assert pooled.dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            scores = model(pictures)
            rounded = model.head(model.backbone(pictures).float())
        assert scores.dtype == torch.float32
        assert torch.equal(scores, model.head(pooled.float()))
        assert not torch.equal(scores, rounded.float()), "autocast would have rounded"


def test_the_seed_of_a_recipe_decides_head_and_adapters_alone(folder_of: FolderOf) -> None:
    """The same seed gives the same new weights, another seed others, and torch's own generator is left as it was."""
    build = {seed: [model_of(folder_of("llama"), seed=seed, lora=LoraRecipe()) for _ in range(2)] for seed in (0, 1)}
    one, same, other = (dict(m.named_parameters()) for m in (*build[0], build[1][0]))
    assert all(torch.equal(one[name], same[name]) for name in one)
    differ = {name for name in one if not torch.equal(one[name], other[name])}
    assert differ == {name for name in one if "lora_A" in name or (name.startswith("head.") and "weight" in name)}
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model_of(folder_of("llama"), seed=3, lora=LoraRecipe())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("content", [None, {}, {"README.md": "# nothing"}], ids=["absent", "empty", "other-files"])
def test_a_folder_that_is_no_model_is_refused(content: dict[str, str] | None, tmp_path: Path) -> None:
    """The error names the folder and says what one has to hold."""
    folder = tmp_path / "nothing"
    if content is not None:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    with pytest.raises(ModelError, match=rf"no model could be loaded from '{folder}'.*config\.json"):
        load_backbone(folder)


def test_missing_weights_are_named(folder_of: FolderOf, tmp_path: Path) -> None:
    """A checkpoint that lacks a weight is refused by the weight's name, not filled up with random numbers."""
    name = "model.layers.1.mlp.up_proj.weight"
    folder = changed(folder_of("llama"), tmp_path / "model", lambda weights: weights.pop(name))
    with pytest.raises(ModelError, match=r"missing: layers\.1\.mlp\.up_proj\.weight"):
        load_backbone(folder)


def test_only_a_complete_folder_may_hold_no_other_weight(folder_of: FolderOf) -> None:
    """A hub checkpoint's language head is left out in silence; where exactly one transformer is due, it is named."""
    load_backbone(folder_of("llama"))
    with pytest.raises(ModelError, match=r"not in the model: lm_head\.weight"):
        load_backbone(folder_of("llama"), complete=True)


def test_a_fingerprint_tells_checkpoints_apart(folder_of: FolderOf, tmp_path: Path) -> None:
    """The same weights have the same fingerprint twice; one changed weight gives another."""
    one, same = (load_backbone(folder_of("llama")).origin for _ in range(2))
    assert one == same
    folder = changed(folder_of("llama"), tmp_path / "model", lambda weights: weights["model.norm.weight"].add_(0.5))
    assert load_backbone(folder).origin.fingerprint != one.fingerprint


def test_an_unknown_family_that_reads_images_is_refused(tmp_path: Path) -> None:
    """The error names the family and those that are known, before any weight is read."""
    LlavaConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="llava") as caught:
        load_config(tmp_path)
    assert all(name in str(caught.value) for name in vision_types())


def test_a_text_backbone_refuses_images(folder_of: FolderOf, pictures: TreeBatch) -> None:
    """Images are never dropped in silence."""
    with pytest.raises(ModelError, match="is a text-only backbone"):
        load_backbone(folder_of("qwen2"))(pictures)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose second layer attends in windows of four tokens."""
    folder = tmp_path_factory.mktemp("windows")
    size: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1}
    window: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(**size, **heads, **window)).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["layer_types"] == ["full_attention", "sliding_attention"]
    return folder


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with windows of eight tokens in every layer, whose configuration names no kinds of layers."""
    folder = tmp_path_factory.mktemp("mistral")
    size: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    MistralForCausalLM(MistralConfig(sliding_window=8, **size, **heads)).save_pretrained(folder)
    assert "layer_types" not in json.loads((folder / "config.json").read_text())
    return folder


@pytest.mark.parametrize("layout", ["tree", "plain"])
@pytest.mark.parametrize("name", ["windows", "mistral"])
def test_rows_keep_the_windows_of_their_layers(name: str, layout: Any, request: pytest.FixtureRequest) -> None:
    """Tree rows and plain rows give the hidden states of transformers' own attention in windows, whether the
    configuration names the kinds of layers or not."""
    folder = request.getfixturevalue(name)
    groups = [encoded_group(16, [4, 9]), encoded_group(3, [9, 2])]
    batch = collate(groups, layout=layout, pad_id=0)
    reference = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        found = iter(load_backbone(folder).eval()(batch))
        for group in groups:
            for branch in group.branches:
                ids = torch.cat([group.prefix, branch])[None]
                expected = reference(ids).last_hidden_state[0, -1]
                torch.testing.assert_close(next(found), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", [*VISION, "llama"])
def test_gradient_checkpointing_changes_no_number(
    family: str, folder_of: FolderOf, pictures_of: Callable[[str], TreeBatch]
) -> None:
    """Loss and gradients are equal with activations stored or computed again, and they are computed again."""
    found = []
    batch = pictures_of(family) if family in VISION else text_batch("tree")
    for checkpointing in (False, True):
        model = model_of(folder_of(family), gradient_checkpointing=checkpointing)
        passes: list[int] = []
        attention = next(m for name, m in model.named_modules() if name.endswith("layers.0.self_attn"))
        attention.register_forward_pre_hook(lambda *_, passes=passes: passes.append(1))
        loss, _ = BradleyTerry(centring=0.01)(model(batch), batch)
        loss.backward()
        assert len(passes) == (2 if checkpointing else 1)
        found.append((loss.item(), gradients(model)))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(gradient, found[1][1][name]) for name, gradient in found[0][1].items())
