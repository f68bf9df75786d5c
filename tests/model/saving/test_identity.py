"""A saved model is tied to the backbone that it was trained on, and keeps its own tokenizer, template and processor."""

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
    """A folder with a backbone in `base` and a model of each kind on it."""
    place = tmp_path_factory.mktemp("identity")
    base = checkpoint("qwen2_5_vl", place / "base")
    for kind, settings in KINDS.items():
        model = ModelRecipe(**settings, head={"_target_": "mlp"})
        model = replace(model, backbone=replace(model.backbone, path=str(base)))
        recipe = Recipe(model=model, data=DataRecipe(sources={"rows": {"_target_": "jsonl"}}))
        save_model(build_model(model, path=str(base), seed=0), place / kind, recipe=recipe, encoder=load_encoder(base))
    return place


@pytest.fixture
def place(origin: Path, tmp_path: Path) -> Path:
    """A copy to be changed, at another path."""
    shutil.copytree(origin, tmp_path / "copy")
    base = str(tmp_path / "copy" / "base")
    for kind in KINDS:
        edit(tmp_path / "copy" / kind / "reward_model.json", lambda card: card["backbone"].update(path=base))
    return tmp_path / "copy"


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Other values in a JSON file."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def one_embedding_value(base: Path) -> None:
    """A single weight of the 236,896, which no sample of 64 a tensor would meet."""
    file = base / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("embed_tokens.weight"))
    weights[name][101, 3] += 0.5
    save_file(weights, file, metadata={"format": "pt"})


def zeros(base: Path) -> None:
    """All weights zero but the 64 values a tensor that the old fingerprint read."""
    file = base / "model.safetensors"
    weights = load_file(file)
    for name, weight in weights.items():
        flat = torch.zeros(weight.numel())
        step = max(1, weight.numel() // 64)
        flat[::step] = weight.flatten()[::step]
        weights[name] = flat.view(weight.shape)
    save_file(weights, file, metadata={"format": "pt"})


def theta(base: Path) -> None:
    """Another base of the rotary positions: no weight, and other scores."""
    edit(base / "config.json", lambda config: config["text_config"]["rope_parameters"].update(rope_theta=7.0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("change", "part", "others"),
    [
        pytest.param(one_embedding_value, "the weights", ["config.json", "template", "tokenizer"], id="one-weight"),
        pytest.param(zeros, "the weights", ["config.json", "template", "tokenizer"], id="zeros"),
        pytest.param(theta, "config.json", ["the weights", "template", "tokenizer"], id="config"),
    ],
)
def test_another_backbone_is_refused_and_the_part_is_named(
    kind: str, change: Callable[[Path], None], part: str, others: list[str], place: Path
) -> None:
    """With its old and its new hash; parts that are the same are not named."""
    before = load_backbone(place / "base").origin.hashes
    change(place / "base")
    now = load_backbone(place / "base").origin.hashes
    with pytest.raises(ModelError) as caught:
        load_scorer(place / kind)
    message = str(caught.value)
    assert part in message
    key = "config" if part == "config.json" else "weights"
    assert before[key][:12] in message
    assert now[key][:12] in message
    assert [other for other in others if other in message] == []


def longer_template(base: Path) -> None:
    """One word more in the chat template."""
    file = base / "chat_template.jinja"
    file.write_text(file.read_text().replace("<|im_start|>", "<|im_start|>now "))


def fewer_pixels(base: Path) -> None:
    """Pictures are made smaller, and lighter."""
    settings = {"size": {"shortest_edge": 56 * 56, "longest_edge": 56 * 56}, "image_mean": [0.1, 0.2, 0.3]}
    edit(base / "preprocessor_config.json", lambda config: config.update(settings))


def other_tokens(base: Path) -> None:
    """Two letters change their places in the vocabulary."""

    def swap(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]

    edit(base / "tokenizer.json", swap)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", [longer_template, fewer_pixels, other_tokens])
def test_a_base_whose_reading_has_moved_changes_no_score(
    kind: str, change: Callable[[Path], None], place: Path
) -> None:
    """An adapter and a head read with the tokenizer, the template and the image processor that they were saved with.
    The change itself is one: a model that is saved without them, as older ones were, scores otherwise."""
    asked: dict[str, Any] = {"images": [picture(3, side=140)]}
    before = load_scorer(place / kind).score("What is the date?", ["eat", "a tea"], **asked)
    change(place / "base")
    assert load_scorer(place / kind).score("What is the date?", ["eat", "a tea"], **asked) == before
    shutil.rmtree(place / kind / "processor")
    assert load_scorer(place / kind).score("What is the date?", ["eat", "a tea"], **asked) != before


@pytest.mark.parametrize("kind", KINDS)
def test_an_edited_processor_of_a_model_is_told(kind: str, place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The files are the user's to edit; opening the model says which part is no longer that of the training."""
    load_scorer(place / kind)
    assert caplog.records == []
    longer_template(place / kind / "processor")
    load_scorer(place / kind)
    (record,) = caplog.records
    assert "the chat template" in record.getMessage()


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_was_saved_without_hashes_opens_by_its_fingerprint(kind: str, place: Path) -> None:
    """As those that earlier versions wrote; another backbone is still noticed."""
    card = place / kind / "reward_model.json"
    before = load_scorer(place / kind).score("?", ["yes", "no"])
    edit(card, lambda content: content.pop("identity"))
    shutil.rmtree(place / kind / "processor")
    assert load_scorer(place / kind).score("?", ["yes", "no"]) == before
    edit(card, lambda content: content["backbone"].update(fingerprint="0" * 64))
    with pytest.raises(ModelError, match="weights differ"):
        load_scorer(place / kind)


def test_a_relative_path_is_stored_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a model on the backbone `ckpt` is opened from any folder; its recipe says so too."""
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
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says where the folder was looked for."""
    monkeypatch.chdir(tmp_path)
    for load in (load_backbone, load_encoder):
        with pytest.raises(ModelError) as caught:
            load(path)  # type: ignore[operator]
        assert os.path.abspath(path) in str(caught.value)
        assert "huggingface.co" not in str(caught.value)


def test_a_name_that_may_be_of_the_hub_is_looked_for_in_both_places(tmp_path: Path) -> None:
    """And the error says so."""
    with pytest.raises(ModelError) as caught:
        load_backbone("someone/some-model")
    assert os.path.abspath("someone/some-model") in str(caught.value)


HUB = """
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


def test_the_commit_of_the_hub_is_recorded_and_opened_again(tmp_path: Path) -> None:
    """A branch that moves on to other weights and another template changes nothing of a model that was saved before."""
    hub = tmp_path / "hub" / "models--us--tiny"
    first, second = "a" * 40, "b" * 40
    checkpoint("llama", hub / "snapshots" / first)
    shutil.copytree(hub / "snapshots" / first, hub / "snapshots" / second)
    longer_template(hub / "snapshots" / second)
    weights = load_file(hub / "snapshots" / second / "model.safetensors")
    weights["model.norm.weight"] += 0.5
    save_file(weights, hub / "snapshots" / second / "model.safetensors", metadata={"format": "pt"})
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text(first)
    command = [sys.executable, "-c", HUB, str(tmp_path / "m"), str(hub / "refs" / "main"), second]
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "m" / "reward_model.json").read_text())
    assert card["identity"]["commit"] == first
    assert card["backbone"]["revision"] == first
