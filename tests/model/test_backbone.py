"""Loading of backbones: errors, trained parts, precision, windows of attention and gradient checkpointing."""

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
MODEL_RECIPE = ModelRecipe(backbone=BackboneRecipe(path="given apart"), head={"_target_": "mlp"})


def model_of(folder: Path, *, seed: int = 0, lora: LoraRecipe | None = None, **backbone: Any) -> RewardModel:
    """Return the model of a recipe with these settings."""
    return build_model(
        replace(MODEL_RECIPE, backbone=BackboneRecipe(**backbone), lora=lora), path=str(folder), seed=seed
    )


def text_batch(layout: Any) -> TreeBatch:
    """Return a batch of two text groups."""
    return collate([encoded_group(6, [4, 3]), encoded_group(3, [9, 2])], layout=layout, pad_id=0)


def copy_with_changed_weights(folder: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Copy a checkpoint, change its weights and return the path of the copy."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize("frozen", [[], ["vision"], ["vision", "merger"], ["vision", "merger", "language"]])
def test_recipe_freezes_parts_but_not_the_head(frozen: list[str], folder_of: FolderOf, pictures: TreeBatch) -> None:
    """The parts that are not frozen and the head are trained, and only they get gradients."""
    model = model_of(folder_of("qwen2_5_vl"), freeze=frozen)
    trained = {"vision", "merger", "language", "head"} - set(frozen)
    assert set(model.parts()) == trained
    BradleyTerry()(model(pictures), pictures)[0].backward()
    assert gradients(model).keys() == {name for parameters in model.parts().values() for name, _ in parameters}


def test_only_adapters_and_head_are_trained(folder_of: FolderOf) -> None:
    """With adapters, the trained parameters of the backbone are the adapters."""
    model = model_of(folder_of("qwen2_5_vl"), lora=LoraRecipe(rank=2, parts=["language", "merger"]))
    assert set(model.parts()) == {"merger", "language", "head"}
    backbone = [name for part, parameters in model.parts().items() for name, _ in parameters if part != "head"]
    assert all("lora_" in name for name in backbone)


def test_head_computes_in_float32(folder_of: FolderOf, pictures: TreeBatch) -> None:
    """The weights, sums and scores of the head are float32 on a bfloat16 backbone and under autocast."""
    model = model_of(folder_of("qwen2_5_vl"), dtype="bfloat16").eval()
    assert {parameter.dtype for parameter in model.backbone.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.head.parameters()} == {torch.float32}
    with torch.no_grad():
        pooled = model.backbone(pictures)
        assert pooled.dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            scores = model(pictures)
            rounded = model.head(model.backbone(pictures).float())
        assert scores.dtype == torch.float32
        assert torch.equal(scores, model.head(pooled.float()))
        assert not torch.equal(scores, rounded.float()), "autocast would round the scores"


def test_seed_sets_head_and_adapters_only(folder_of: FolderOf) -> None:
    """The same seed gives the same new weights and another seed gives others; torch's own generator does not change."""
    models = {seed: [model_of(folder_of("llama"), seed=seed, lora=LoraRecipe()) for _ in range(2)] for seed in (0, 1)}
    parameters, same_seed, other_seed = (dict(model.named_parameters()) for model in (*models[0], models[1][0]))
    assert all(torch.equal(parameters[name], same_seed[name]) for name in parameters)
    different = {name for name in parameters if not torch.equal(parameters[name], other_seed[name])}
    assert different == {
        name for name in parameters if "lora_A" in name or (name.startswith("head.") and "weight" in name)
    }
    torch.manual_seed(5)
    state_before = torch.get_rng_state()
    model_of(folder_of("llama"), seed=3, lora=LoraRecipe())
    assert torch.equal(torch.get_rng_state(), state_before)


@pytest.mark.parametrize("content", [None, {}, {"README.md": "# nothing"}], ids=["absent", "empty", "other-files"])
def test_folder_without_a_model_is_refused(content: dict[str, str] | None, tmp_path: Path) -> None:
    """The error names the folder and the file it must contain."""
    folder = tmp_path / "nothing"
    if content is not None:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    with pytest.raises(ModelError, match=rf"no model could be loaded from '{folder}'.*config\.json"):
        load_backbone(folder)


def test_missing_weights_are_named(folder_of: FolderOf, tmp_path: Path) -> None:
    """A checkpoint without a required weight is refused by the name of the weight; no random weight replaces it."""
    name = "model.layers.1.mlp.up_proj.weight"
    folder = copy_with_changed_weights(folder_of("llama"), tmp_path / "model", lambda weights: weights.pop(name))
    with pytest.raises(ModelError, match=r"missing: layers\.1\.mlp\.up_proj\.weight"):
        load_backbone(folder)


def test_complete_loading_refuses_unused_weights(folder_of: FolderOf) -> None:
    """The language head of a hub checkpoint is ignored; with `complete=True` it is refused by name."""
    load_backbone(folder_of("llama"))
    with pytest.raises(ModelError, match=r"not in the model: lm_head\.weight"):
        load_backbone(folder_of("llama"), complete=True)


def test_fingerprint_identifies_the_weights(folder_of: FolderOf, tmp_path: Path) -> None:
    """The same weights have the same fingerprint, and one changed weight gives another fingerprint."""
    origin, same_origin = (load_backbone(folder_of("llama")).origin for _ in range(2))
    assert origin == same_origin
    folder = copy_with_changed_weights(
        folder_of("llama"), tmp_path / "model", lambda weights: weights["model.norm.weight"].add_(0.5)
    )
    assert load_backbone(folder).origin.fingerprint != origin.fingerprint


def test_unknown_image_family_is_refused(tmp_path: Path) -> None:
    """The error names the family and the supported families before any weight is read."""
    LlavaConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="llava") as excinfo:
        load_config(tmp_path)
    assert all(name in str(excinfo.value) for name in vision_types())


def test_text_only_backbone_refuses_images(folder_of: FolderOf, pictures: TreeBatch) -> None:
    """A batch with images is an error; the images are not dropped silently."""
    with pytest.raises(ModelError, match="is a text-only backbone"):
        load_backbone(folder_of("qwen2"))(pictures)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint whose second layer attends in windows of four tokens."""
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
    """Return a checkpoint with windows of eight tokens in every layer and no `layer_types` in its configuration."""
    folder = tmp_path_factory.mktemp("mistral")
    size: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    MistralForCausalLM(MistralConfig(sliding_window=8, **size, **heads)).save_pretrained(folder)
    assert "layer_types" not in json.loads((folder / "config.json").read_text())
    return folder


@pytest.mark.parametrize("layout", ["tree", "plain"])
@pytest.mark.parametrize("name", ["windows", "mistral"])
def test_rows_respect_sliding_windows(name: str, layout: Any, request: pytest.FixtureRequest) -> None:
    """Tree rows and plain rows give the hidden states of transformers' sliding-window attention, with and without
    `layer_types` in the configuration."""
    folder = request.getfixturevalue(name)
    groups = [encoded_group(16, [4, 9]), encoded_group(3, [9, 2])]
    batch = collate(groups, layout=layout, pad_id=0)
    reference = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        states = iter(load_backbone(folder).eval()(batch))
        for group in groups:
            for branch in group.branches:
                ids = torch.cat([group.prefix, branch])[None]
                expected = reference(ids).last_hidden_state[0, -1]
                torch.testing.assert_close(next(states), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", [*VISION, "llama"])
def test_gradient_checkpointing_changes_no_gradient(
    family: str, folder_of: FolderOf, pictures_of: Callable[[str], TreeBatch]
) -> None:
    """Loss and gradients are bit-identical with stored and with recomputed activations, and the layers run twice."""
    results = []
    batch = pictures_of(family) if family in VISION else text_batch("tree")
    for checkpointing in (False, True):
        model = model_of(folder_of(family), gradient_checkpointing=checkpointing)
        passes: list[int] = []
        attention = next(module for name, module in model.named_modules() if name.endswith("layers.0.self_attn"))
        attention.register_forward_pre_hook(lambda *_, passes=passes: passes.append(1))
        loss, _ = BradleyTerry(centring=0.01)(model(batch), batch)
        loss.backward()
        assert len(passes) == (2 if checkpointing else 1)
        results.append((loss.item(), gradients(model)))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(gradient, results[1][1][name]) for name, gradient in results[0][1].items())
