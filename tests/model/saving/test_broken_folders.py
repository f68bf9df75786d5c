"""Damaged or malicious saved models: every one raises a `ModelError` that names the file or the value, before memory is
allocated or code is run for it."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from basereward.errors import ModelError
from basereward.inference.scorer import load_scorer
from basereward.model.families.processing import load_encoder
from basereward.model.reward_model import build_model
from basereward.model.saving.saved_model import save_model
from basereward.recipe.schema import BackboneRecipe, DataRecipe, LoraRecipe, ModelRecipe, Recipe
from tests.helpers.support import checkpoint

Change = Callable[[Path], Any]

CARD = "model/reward_model.json"
HEAD = "model/head.safetensors"
ADAPTER = "model/adapter/adapter_config.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return one folder per kind of saved model, with the model in `model` and its backbone in `base`."""
    folders = {}
    for kind, settings in {
        "full": {},
        "adapter": {"lora": LoraRecipe(rank=2)},
        "head": {"freeze": ["vision", "merger", "language"]},
    }.items():
        folder = tmp_path_factory.mktemp(kind)
        path = str(checkpoint("qwen2_5_vl", folder / "base"))
        recipe = Recipe(
            model=ModelRecipe(
                backbone=BackboneRecipe(path=path, freeze=settings.get("freeze", [])),  # type: ignore[arg-type]
                lora=settings.get("lora"),  # type: ignore[arg-type]
                head={"_target_": "mlp"},
            ),
            data=DataRecipe(sources={"rows": {"_target_": "jsonl"}}),
        )
        model = build_model(recipe.model, path=path, seed=0)
        save_model(model, folder / "model", recipe=recipe, encoder=load_encoder(path))
        folders[kind] = folder
    return folders


def write_content(name: str, content: bytes | str) -> Change:
    """Return a change that writes another content to a file."""
    data = content.encode() if isinstance(content, str) else content

    def change(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return change


def edit_json(name: str, **values: Any) -> Change:
    """Return a change of values in a JSON file; a key `a__b` is `b` of the object `a`, and `...` deletes a key."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        for key, value in values.items():
            target = content
            *outer, last = key.split("__")
            for parent in outer:
                target = target[parent]
            if value is ...:
                del target[last]
            else:
                target[last] = value
        (folder / name).write_text(json.dumps(content))

    return change


def edit_weights(name: str, update: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    """Return a change of the weights in a file."""

    def change(folder: Path) -> None:
        weights = load_file(folder / name)
        update(weights)
        save_file(weights, folder / name, metadata={"format": "pt"})

    return change


def truncate(name: str, size: int) -> Change:
    """Return a change that keeps only the first bytes of a file."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def add_token(text: str) -> Change:
    """Return a change that adds a token to the tokenizer, with a number behind every row of the embedding."""

    def change(folder: Path) -> None:
        content = json.loads((folder / TOKENIZER).read_text())
        rows = json.loads((folder / BASE_CONFIG).read_text())["text_config"]["vocab_size"]
        token = dict(content["added_tokens"][0], content=text, id=rows, special=False)
        content["added_tokens"].append(token)
        (folder / TOKENIZER).write_text(json.dumps(content))

    return change


def delete_file(name: str) -> Change:
    """Return a change that deletes a file."""
    return lambda folder: (folder / name).unlink()


def write_index(weight_map: dict[str, Any] | list[Any] | None) -> Change:
    """Return a change that replaces the weight file with an index of shards."""

    def change(folder: Path) -> None:
        base = folder / "base"
        (base / "model.safetensors").rename(base / "part.safetensors")
        (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return change


def replace_with_fifo(name: str) -> Change:
    """Return a change that replaces a file with a FIFO, which never ends."""

    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def insert_nan(weights: dict[str, torch.Tensor]) -> None:
    """Set one value of the first weight to NaN."""
    weights[sorted(weights)[0]].view(-1)[0] = torch.nan


def spoil_norm(weights: dict[str, torch.Tensor]) -> None:
    """Set one value of the last norm to infinity."""
    weights["model.norm.weight"][3] = torch.inf


def halve_layer(weights: dict[str, torch.Tensor]) -> None:
    """Give one weight another shape than config.json describes."""
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = weights[name][:128].clone()


def add_metadata(folder: Path) -> None:
    """Write the weights of the backbone again as they are, with other metadata in the header."""
    save_file(load_file(folder / BASE_WEIGHTS), folder / BASE_WEIGHTS, metadata={"format": "pt", "note": "copied"})


class Marker:
    """An object whose pickle creates a file when it is loaded."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("/tmp/basereward-pickle-was-loaded"),)


BASE_WEIGHTS, BASE_CONFIG, TOKENIZER = "base/model.safetensors", "base/config.json", "model/processor/tokenizer.json"
NESTED_CARD = '{"format": 1, "head": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}"

CASES: dict[str, tuple[str, Change, str]] = {
    "card is an array": ("head", write_content(CARD, "[]"), "reward_model.json"),
    "card is null": ("head", write_content(CARD, "null"), "reward_model.json"),
    "card is empty": ("head", write_content(CARD, ""), "reward_model.json"),
    "card is bytes": ("head", write_content(CARD, b"\xff\xfe\x00"), "reward_model.json"),
    "card is nested": ("head", write_content(CARD, NESTED_CARD), "nested"),
    "card of a later format": ("head", edit_json(CARD, format=2), "has format 2; this version reads format 1. Update"),
    "format is text": ("head", edit_json(CARD, format="1"), 'its `format` is "1"; the number 1 is needed. Copy'),
    "format is true": ("head", edit_json(CARD, format=True), "its `format` is true"),
    "card without format": ("head", edit_json(CARD, format=...), "its `format` is missing"),
    "mean score NaN": ("head", edit_json(CARD, scores={"mean": math.nan, "std": 1.0}), "finite numbers is needed"),
    "mean score infinite": ("head", edit_json(CARD, scores={"mean": math.inf, "std": 1.0}), "finite numbers is needed"),
    "card without head": ("head", edit_json(CARD, head=...), "head is missing"),
    "card without backbone": ("head", edit_json(CARD, backbone=...), "backbone is missing"),
    "card without scores": ("head", edit_json(CARD, scores=...), "scores is missing"),
    "card without kind": ("head", edit_json(CARD, kind=...), "kind is missing"),
    "head is text": ("head", edit_json(CARD, head="mlp"), "_target_"),
    "head unknown": ("head", edit_json(CARD, head={"_target_": "mpl"}), "mlp"),
    "head argument unknown": ("head", edit_json(CARD, head__leyers=3), "layers"),
    "backbone is a list": ("head", edit_json(CARD, backbone=[1]), "backbone"),
    "scores are text": ("head", edit_json(CARD, scores={"mean": "high"}), "scores"),
    "kind unknown": ("head", edit_json(CARD, kind="half"), "kind"),
    "dtype unknown": ("head", edit_json(CARD, backbone__dtype="float33"), "dtype"),
    "dtype is an attribute of torch": ("head", edit_json(CARD, backbone__dtype="nn"), "dtype"),
    "dtype is a number": ("head", edit_json(CARD, backbone__dtype=16), "dtype"),
    "quantization unknown": ("head", edit_json(CARD, backbone__quantization="weird"), "quantization"),
    "path is a number": ("head", edit_json(CARD, backbone__path=7), "path"),
    "path is null": ("head", edit_json(CARD, backbone__path=None), "path"),
    "path is gone": ("head", edit_json(CARD, backbone__path="/nowhere/at/all"), "/nowhere/at/all"),
    "revision is an object": ("head", edit_json(CARD, backbone__revision={}), "revision"),
    "identity is a list": ("head", edit_json(CARD, identity=[]), "identity"),
    "hashes are numbers": ("head", edit_json(CARD, identity__hashes={"weights": 1}), "hashes"),
    "head of a billion columns": ("head", edit_json(CARD, head__width=10**9), "width"),
    "head of ten million layers": ("head", edit_json(CARD, head__layers=10**7), "layers"),
    "head weights cut": ("head", truncate(HEAD, 100), HEAD),
    "head weights empty": ("head", write_content(HEAD, b""), HEAD),
    "head weights gone": ("head", delete_file(HEAD), HEAD),
    "head weights a FIFO": ("head", replace_with_fifo(HEAD), "FIFO"),
    "head weights a pickle": ("head", write_content(HEAD, pickle.dumps(Marker())), HEAD),
    "head weights whole numbers": (
        "head",
        edit_weights(
            HEAD, lambda weights: weights.update({name: weight.to(torch.int8) for name, weight in weights.items()})
        ),
        "int8",
    ),
    "head weights complex": (
        "head",
        edit_weights(
            HEAD, lambda weights: weights.update({name: weight.to(torch.complex64) for name, weight in weights.items()})
        ),
        "complex64",
    ),
    "head weights of eight bits": (
        "head",
        edit_weights(
            HEAD,
            lambda weights: weights.update({name: weight.to(torch.float8_e4m3fn) for name, weight in weights.items()}),
        ),
        "float8_e4m3fn",
    ),
    "head weights NaN": ("head", edit_weights(HEAD, insert_nan), "layers.0.bias"),
    "recipe gone": ("head", delete_file("model/recipe.yaml"), "recipe.yaml"),
    "recipe is a list": ("head", write_content("model/recipe.yaml", "[1, 2]"), "recipe.yaml"),
    "base weights a pickle": ("head", write_content(BASE_WEIGHTS, pickle.dumps(Marker())), BASE_WEIGHTS),
    "base weights cut": ("head", lambda folder: truncate(BASE_WEIGHTS, 100_000)(folder), BASE_WEIGHTS),
    "base weights empty": ("head", write_content(BASE_WEIGHTS, b""), BASE_WEIGHTS),
    "base weights gone": ("head", delete_file(BASE_WEIGHTS), "model.safetensors"),
    "base header huge": ("head", write_content(BASE_WEIGHTS, (2**62).to_bytes(8, "little") + b"{}"), BASE_WEIGHTS),
    "base header no JSON": ("head", write_content(BASE_WEIGHTS, (5).to_bytes(8, "little") + b"hello"), BASE_WEIGHTS),
    "base weights whole numbers": (
        "head",
        edit_weights(
            BASE_WEIGHTS,
            lambda weights: weights.update({name: (weight * 10).to(torch.int8) for name, weight in weights.items()}),
        ),
        "I8",
    ),
    "base weights of eight bits": (
        "head",
        edit_weights(
            BASE_WEIGHTS,
            lambda weights: weights.update({name: weight.to(torch.float8_e4m3fn) for name, weight in weights.items()}),
        ),
        "F8_E4M3",
    ),
    "index leaves the folder": ("head", write_index({"a": "../base/part.safetensors"}), "part.safetensors"),
    "index is absolute": ("head", write_index({"a": "/etc/passwd"}), "/etc/passwd"),
    "index of a missing part": ("head", write_index({"a": "other.safetensors"}), "other.safetensors"),
    "index of numbers": ("head", write_index({"a": 1}), "weight_map"),
    "index of a list": ("head", write_index([]), "weight_map"),
    "index of nothing": ("head", write_index(None), "weight_map"),
    "config is an array": ("head", write_content(BASE_CONFIG, "[]"), BASE_CONFIG),
    "config without type": ("head", edit_json(BASE_CONFIG, model_type=...), "base"),
    "config of an unknown type": ("head", edit_json(BASE_CONFIG, model_type="qwen9"), "qwen9"),
    "config of a billion layers": ("head", edit_json(BASE_CONFIG, text_config__num_hidden_layers=10**9), "layers"),
    "config of layers of other kinds": (
        "head",
        edit_json(BASE_CONFIG, text_config__num_hidden_layers=5000),
        "layer_type",
    ),
    "config of many layers": (
        "head",
        edit_json(BASE_CONFIG, text_config__num_hidden_layers=5000, text_config__layer_types=["full_attention"] * 5000),
        "more than",
    ),
    "config of negative layers": ("head", edit_json(BASE_CONFIG, text_config__num_hidden_layers=-1), "config.json"),
    "config of a huge width": ("head", edit_json(BASE_CONFIG, text_config__hidden_size=2**30), "config.json"),
    "config of a huge vocabulary": ("head", edit_json(BASE_CONFIG, text_config__vocab_size=2**31), "describes"),
    "config width is text": ("head", edit_json(BASE_CONFIG, text_config__hidden_size="wide"), "base"),
    "config width is a list": ("head", edit_json(BASE_CONFIG, text_config__hidden_size=[64]), "base"),
    "config activation unknown": ("head", edit_json(BASE_CONFIG, text_config__hidden_act="os.system"), "base"),
    "config of a billion labels": ("head", edit_json(BASE_CONFIG, num_labels=10**9), "num_labels"),
    "config names a kernel of the hub": (
        "head",
        edit_json(BASE_CONFIG, vision_config___attn_implementation="some-one/kernel"),
        "some-one/kernel",
    ),
    "config names kernels of the hub": (
        "head",
        edit_json(BASE_CONFIG, attn_implementation={"text_config": "some-one/kernel"}),
        "some-one/kernel",
    ),
    "config heads zero": ("head", edit_json(BASE_CONFIG, text_config__num_attention_heads=0), "base"),
    "base is an adapter": ("head", write_content("base/adapter_config.json", "{}"), "adapter"),
    "tokenizer broken": ("head", write_content(TOKENIZER, "{"), "processor"),
    "tokenizer is an array": ("head", write_content(TOKENIZER, "[]"), "processor"),
    "tokenizer expression broken": (
        "head",
        edit_json(TOKENIZER, pre_tokenizer={"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated"}),
        "processor",
    ),
    "tokenizer makes texts longer": (
        "head",
        edit_json(
            TOKENIZER,
            normalizer={
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}] * 8,
            },
        ),
        "normalizer",
    ),
    "tokenizer begins texts with a book": (
        "head",
        edit_json(TOKENIZER, normalizer={"type": "Prepend", "prepend": "a" * 10**6}),
        "normalizer",
    ),
    "tokenizer of another vocabulary": ("head", add_token("zyzzyva"), "zyzzyva"),
    "tokenizer gone": ("head", delete_file(TOKENIZER), "processor"),
    "tokenizer a FIFO": ("head", replace_with_fifo(TOKENIZER), "FIFO"),
    "template raises": (
        "head",
        write_content("model/processor/chat_template.jinja", "{{ raise_exception('never') }}"),
        "never",
    ),
    "template is no template": (
        "head",
        write_content("model/processor/chat_template.jinja", "{% for %}"),
        "chat_template.jinja",
    ),
    "template divides by zero": (
        "head",
        write_content("model/processor/chat_template.jinja", "{{ 1 // 0 }}"),
        "chat_template.jinja",
    ),
    "template gone": ("head", delete_file("model/processor/chat_template.jinja"), "chat template"),
    "pixels without end": (
        "head",
        edit_json("model/processor/preprocessor_config.json", size={"shortest_edge": 10**12, "longest_edge": 10**13}),
        "shortest_edge",
    ),
    **{
        f"image processor with {key} {value}": (
            "head",
            edit_json("model/processor/preprocessor_config.json", **{key: value}),
            named,
        )
        for key, value, named in [
            ("patch_size", 0, "patch_size"),
            ("patch_size", "x", "patch_size"),
            ("merge_size", 10**9, "merge_size"),
            ("temporal_patch_size", 10**9, "temporal_patch_size"),
            ("image_mean", [1.0], "mean"),
            ("image_std", [0, 0, 0], "NaN or infinite"),
            ("rescale_factor", "x", "preprocessor_config.json"),
            ("resample", 99, "resampling"),
        ]
    },
    "image processor is an array": (
        "head",
        write_content("model/processor/preprocessor_config.json", "[]"),
        "preprocessor",
    ),
    "image processor unknown": (
        "head",
        edit_json("model/processor/preprocessor_config.json", image_processor_type="os.system"),
        "processor",
    ),
    "adapter config gone": ("adapter", delete_file(ADAPTER), "adapter_config.json"),
    "adapter config is an array": ("adapter", write_content(ADAPTER, "[]"), "adapter_config.json"),
    "adapter of rank a billion": ("adapter", edit_json(ADAPTER, r=10**9), "rank"),
    "adapter of text rank": ("adapter", edit_json(ADAPTER, r="2"), "rank"),
    "adapter of another method": ("adapter", edit_json(ADAPTER, peft_type="IA3"), "LORA"),
    "adapter repeats layers": ("adapter", edit_json(ADAPTER, layer_replication=[[0, 10**9]]), "layer_replication"),
    "adapter imports a module": ("adapter", edit_json(ADAPTER, megatron_config={"a": 1}), "megatron_config"),
    "adapter changes the base": ("adapter", edit_json(ADAPTER, init_lora_weights="pissa"), "init_lora_weights"),
    "adapter targets by an expression": (
        "adapter",
        edit_json(ADAPTER, target_modules="(([a-z])+)+$!"),
        "target_modules",
    ),
    "adapter targets nothing": ("adapter", edit_json(ADAPTER, target_modules=["nothing"]), "adapter"),
    "adapter weights gone": ("adapter", delete_file("model/adapter/adapter_model.safetensors"), "adapter_model"),
    "adapter weights cut": ("adapter", truncate("model/adapter/adapter_model.safetensors", 50), "adapter_model"),
    "adapter weights NaN": ("adapter", edit_weights("model/adapter/adapter_model.safetensors", insert_nan), "lora_"),
    "own backbone a pickle": (
        "full",
        write_content("model/backbone/model.safetensors", pickle.dumps(Marker())),
        "backbone",
    ),
    "own backbone gone": ("full", delete_file("model/backbone/model.safetensors"), "backbone"),
    "own config of another width": (
        "full",
        edit_json("model/backbone/config.json", text_config__hidden_size=48),
        "backbone",
    ),
    "own config of another norm": (
        "full",
        edit_json("model/backbone/config.json", text_config__rms_norm_eps=0.5),
        "config.json differs",
    ),
    "own weights of another training": (
        "full",
        edit_weights(
            "model/backbone/model.safetensors", lambda weights: weights["visual.patch_embed.proj.weight"].mul_(2)
        ),
        "the weights differ",
    ),
    "own hashes a number": ("full", edit_json(CARD, backbone__hashes=5), "backbone.hashes"),
    "identity null": ("head", edit_json(CARD, identity=None), "the identity of the backbone"),
    "base weights in another file": ("head", add_metadata, "the files of the weights differ"),
    "base weights NaN": ("head", edit_weights(BASE_WEIGHTS, spoil_norm), "NaN or infinite: model.norm.weight"),
    "base weights of another shape": (
        "head",
        edit_weights(BASE_WEIGHTS, halve_layer),
        "layers.0.mlp.up_proj.weight has shape (128, 64), config.json describes (256, 64)",
    ),
}


@pytest.fixture(autouse=True)
def no_pickle_is_loaded() -> Iterator[None]:
    """Check after every test that no pickle was loaded."""
    marker = Path("/tmp/basereward-pickle-was-loaded")
    marker.unlink(missing_ok=True)
    yield
    assert not marker.exists()


@pytest.mark.parametrize("case", CASES)
def test_broken_folder_raises_model_error(case: str, saved: dict[str, Path], tmp_path: Path) -> None:
    """The error names the file or the value, and no other exception leaves a library."""
    kind, apply_change, expected = CASES[case]
    folder = tmp_path / "copy"
    shutil.copytree(saved[kind], folder)
    if kind != "full":
        edit_json(CARD, backbone__path=str(folder / "base"))(folder)
    apply_change(folder)
    with pytest.raises(ModelError) as excinfo:
        load_scorer(folder / "model")
    assert expected in str(excinfo.value)


@pytest.mark.parametrize("kind", ["full", "adapter", "head"])
def test_unchanged_copy_loads(kind: str, saved: dict[str, Path], tmp_path: Path) -> None:
    """An unchanged copy loads, so the errors above come from the changes; and it is replaced by a newer model."""
    shutil.copytree(saved[kind], tmp_path / "copy")
    scorer = load_scorer(tmp_path / "copy" / "model")
    scores = scorer.score("?", ["yes", "no"])
    assert len(scores) == 2
    scorer.save(tmp_path / "copy" / "model")
    assert load_scorer(tmp_path / "copy" / "model").score("?", ["yes", "no"]) == scores
