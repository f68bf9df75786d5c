"""The identity of a saved model: its backbone is recognised by hashes, and it keeps its own tokenizer, template and
processor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from basereward.errors import ModelError
from basereward.inference.scorer import load_scorer
from basereward.model.backbone import load_backbone
from basereward.model.families.processing import load_encoder
from basereward.model.reward_model import build_model
from basereward.model.saving.saved_model import save_model
from basereward.recipe.schema import BackboneRecipe, DataRecipe, LoraRecipe, ModelRecipe, Recipe
from tests.helpers.support import checkpoint, picture

KINDS: dict[str, dict[str, Any]] = {
    "adapter": {"lora": LoraRecipe(rank=2)},
    "head": {"backbone": BackboneRecipe(freeze=["vision", "merger", "language"])},
}


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a backbone in `base` and a model of each kind on it."""
    folder = tmp_path_factory.mktemp("identity")
    base = checkpoint("qwen2_5_vl", folder / "base")
    for kind, settings in KINDS.items():
        model = ModelRecipe(**settings, head={"_target_": "mlp"})
        model = replace(model, backbone=replace(model.backbone, path=str(base)))
        recipe = Recipe(model=model, data=DataRecipe(sources={"rows": {"_target_": "jsonl"}}))
        save_model(build_model(model, path=str(base), seed=0), folder / kind, recipe=recipe, encoder=load_encoder(base))
    return folder


@pytest.fixture
def copied_folder(origin: Path, tmp_path: Path) -> Path:
    """Return a copy of that folder at another path, which a test may change."""
    shutil.copytree(origin, tmp_path / "copy")
    base = str(tmp_path / "copy" / "base")
    for kind in KINDS:
        edit_json(tmp_path / "copy" / kind / "reward_model.json", lambda card: card["backbone"].update(path=base))
    return tmp_path / "copy"


def edit_json(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change values in a JSON file."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def change_one_weight(base: Path) -> None:
    """Change one of 236,896 values of the embedding, which a sample of 64 values per tensor would miss."""
    file = base / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("embed_tokens.weight"))
    weights[name][101, 3] += 0.5
    save_file(weights, file, metadata={"format": "pt"})


def zero_unsampled_weights(base: Path) -> None:
    """Set all weights to zero except the 64 values per tensor that the older fingerprint sampled."""
    file = base / "model.safetensors"
    weights = load_file(file)
    for name, weight in weights.items():
        values = torch.zeros(weight.numel())
        step = max(1, weight.numel() // 64)
        values[::step] = weight.flatten()[::step]
        weights[name] = values.view(weight.shape)
    save_file(weights, file, metadata={"format": "pt"})


def change_rope_theta(base: Path) -> None:
    """Change the base of the rotary positions, which changes scores without changing a weight."""
    edit_json(base / "config.json", lambda config: config["text_config"]["rope_parameters"].update(rope_theta=7.0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("apply_change", "part", "unchanged_parts"),
    [
        pytest.param(change_one_weight, "the weights", ["config.json", "template", "tokenizer"], id="one-weight"),
        pytest.param(zero_unsampled_weights, "the weights", ["config.json", "template", "tokenizer"], id="zeros"),
        pytest.param(change_rope_theta, "config.json", ["the weights", "template", "tokenizer"], id="config"),
    ],
)
def test_changed_backbone_is_refused(
    kind: str, apply_change: Callable[[Path], None], part: str, unchanged_parts: list[str], copied_folder: Path
) -> None:
    """The error names the changed part with its old and new hash, and no unchanged part."""
    hashes_before = load_backbone(copied_folder / "base").origin.hashes
    apply_change(copied_folder / "base")
    hashes_after = load_backbone(copied_folder / "base").origin.hashes
    with pytest.raises(ModelError) as excinfo:
        load_scorer(copied_folder / kind)
    message = str(excinfo.value)
    assert part in message
    key = "config" if part == "config.json" else "weights"
    assert hashes_before[key][:12] in message
    assert hashes_after[key][:12] in message
    assert [name for name in unchanged_parts if name in message] == []


def change_template(base: Path) -> None:
    """Add one word to the chat template."""
    file = base / "chat_template.jinja"
    file.write_text(file.read_text().replace("<|im_start|>", "<|im_start|>now "))


def change_image_processor(base: Path) -> None:
    """Make images smaller and change their normalisation."""
    settings = {"size": {"shortest_edge": 56 * 56, "longest_edge": 56 * 56}, "image_mean": [0.1, 0.2, 0.3]}
    edit_json(base / "preprocessor_config.json", lambda config: config.update(settings))


def swap_tokens(base: Path) -> None:
    """Swap two letters in the vocabulary."""

    def swap(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]

    edit_json(base / "tokenizer.json", swap)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("apply_change", [change_template, change_image_processor, swap_tokens])
def test_changed_processor_of_the_base_changes_no_score(
    kind: str, apply_change: Callable[[Path], None], copied_folder: Path
) -> None:
    """An adapter and a head use the tokenizer, template and image processor saved with them.

    Without these files, as in older saved models, the change of the base does change the scores.
    """
    images: dict[str, Any] = {"images": [picture(3, side=140)]}
    expected = load_scorer(copied_folder / kind).score("What is the date?", ["eat", "a tea"], **images)
    apply_change(copied_folder / "base")
    assert load_scorer(copied_folder / kind).score("What is the date?", ["eat", "a tea"], **images) == expected
    shutil.rmtree(copied_folder / kind / "processor")
    assert load_scorer(copied_folder / kind).score("What is the date?", ["eat", "a tea"], **images) != expected


@pytest.mark.parametrize("kind", KINDS)
def test_edited_processor_of_a_model_is_logged(
    kind: str, copied_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A user may edit the files; loading the model logs which part differs from training."""
    load_scorer(copied_folder / kind)
    assert caplog.records == []
    change_template(copied_folder / kind / "processor")
    load_scorer(copied_folder / kind)
    (record,) = caplog.records
    assert "the chat template" in record.getMessage()


@pytest.mark.parametrize("kind", KINDS)
def test_model_without_hashes_is_checked_by_its_fingerprint(kind: str, copied_folder: Path) -> None:
    """A model saved by an earlier version loads, and a changed backbone is still detected."""
    card = copied_folder / kind / "reward_model.json"
    expected = load_scorer(copied_folder / kind).score("?", ["yes", "no"])
    edit_json(card, lambda content: content.pop("identity"))
    shutil.rmtree(copied_folder / kind / "processor")
    assert load_scorer(copied_folder / kind).score("?", ["yes", "no"]) == expected
    edit_json(card, lambda content: content["backbone"].update(fingerprint="0" * 64))
    with pytest.raises(ModelError, match="weights differ"):
        load_scorer(copied_folder / kind)


def test_relative_path_is_stored_as_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model on the backbone `ckpt` can be loaded from any folder, and its recipe has the absolute path."""
    checkpoint("llama", tmp_path / "ckpt")
    monkeypatch.chdir(tmp_path)
    model = ModelRecipe(backbone=BackboneRecipe(path="ckpt"), lora=LoraRecipe(rank=2), head={"_target_": "mlp"})
    recipe = Recipe(model=model, data=DataRecipe(sources={"rows": {"_target_": "jsonl"}}))
    save_model(build_model(model, path="ckpt", seed=0), Path("m"), recipe=recipe, encoder=load_encoder("ckpt"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    scorer = load_scorer(tmp_path / "m")
    assert scorer.recipe.model.backbone.path == str(tmp_path / "ckpt")
    assert len(scorer.score("?", ["yes", "no"])) == 2


@pytest.mark.parametrize("path", ["../ckpt", "./ckpt", "~/no/such/folder", "a/b/c"])
def test_missing_folder_is_not_searched_on_the_hub(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error contains the absolute path of the missing folder."""
    monkeypatch.chdir(tmp_path)
    for load in (load_backbone, load_encoder):
        with pytest.raises(ModelError) as excinfo:
            load(path)  # type: ignore[operator]
        assert os.path.abspath(path) in str(excinfo.value)
        assert "huggingface.co" not in str(excinfo.value)


def test_possible_hub_name_is_searched_in_both_places(tmp_path: Path) -> None:
    """The error contains the local path that was searched too."""
    with pytest.raises(ModelError) as excinfo:
        load_backbone("someone/some-model")
    assert os.path.abspath("someone/some-model") in str(excinfo.value)


HUB_SCRIPT = """
import sys
from pathlib import Path
from basereward.model.families.processing import load_encoder
from basereward.model.reward_model import build_model
from basereward.model.saving.saved_model import save_model
from basereward.inference.scorer import load_scorer
from basereward.recipe.schema import BackboneRecipe, DataRecipe, LoraRecipe, ModelRecipe, Recipe

model = ModelRecipe(backbone=BackboneRecipe(path="us/tiny"), lora=LoraRecipe(rank=2), head={"_target_": "mlp"})
recipe = Recipe(model=model, data=DataRecipe(sources={"rows": {"_target_": "jsonl"}}))
save_model(
    build_model(model, path="us/tiny", seed=0), Path(sys.argv[1]), recipe=recipe, encoder=load_encoder("us/tiny")
)
before = load_scorer(sys.argv[1]).score("?", ["yes", "no"])
refs = Path(sys.argv[2])
refs.write_text(sys.argv[3])  # the branch moves on
assert load_scorer(sys.argv[1]).score("?", ["yes", "no"]) == before
"""


def test_hub_commit_is_recorded_and_reused(tmp_path: Path) -> None:
    """A branch that moves to other weights and another template does not change a model saved before."""
    hub = tmp_path / "hub" / "models--us--tiny"
    first, second = "a" * 40, "b" * 40
    checkpoint("llama", hub / "snapshots" / first)
    shutil.copytree(hub / "snapshots" / first, hub / "snapshots" / second)
    change_template(hub / "snapshots" / second)
    weights = load_file(hub / "snapshots" / second / "model.safetensors")
    weights["model.norm.weight"] += 0.5
    save_file(weights, hub / "snapshots" / second / "model.safetensors", metadata={"format": "pt"})
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text(first)
    command = [sys.executable, "-c", HUB_SCRIPT, str(tmp_path / "m"), str(hub / "refs" / "main"), second]
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    card = json.loads((tmp_path / "m" / "reward_model.json").read_text())
    assert card["identity"]["commit"] == first
    assert card["backbone"]["revision"] == first
