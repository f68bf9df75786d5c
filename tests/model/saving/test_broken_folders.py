"""Saved models that were damaged, or made by somebody with other intentions: every one is a `ModelError` that names the
file or the value, and nothing is allocated or run for it."""

from __future__ import annotations

import json
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
    """A folder each with a model of a kind in `model`, and its backbone in `base`."""
    places = {}
    for kind, settings in {
        "full": {},
        "adapter": {"lora": LoraRecipe(rank=2)},
        "head": {"freeze": ["vision", "merger", "language"]},
    }.items():
        place = tmp_path_factory.mktemp(kind)
        path = str(checkpoint("qwen2_5_vl", place / "base"))
        recipe = Recipe(
            model=ModelRecipe(
                backbone=BackboneRecipe(path=path, freeze=settings.get("freeze", [])),  # type: ignore[arg-type]
                lora=settings.get("lora"),  # type: ignore[arg-type]
                head={"_target_": "mlp"},
            ),
            data=DataRecipe(sources={"rows": {"_target_": "jsonl"}}),
        )
        model = build_model(recipe.model, path=path, seed=0)
        save_model(model, place / "model", recipe=recipe, encoder=load_encoder(path))
        places[kind] = place
    return places


def write(name: str, content: bytes | str) -> Change:
    """Another content of a file."""
    data = content.encode() if isinstance(content, str) else content

    def change(place: Path) -> None:
        (place / name).write_bytes(data)

    return change


def edit(name: str, **values: Any) -> Change:
    """Other values in a JSON file; a key `a__b` is `b` of the object `a`, and `...` takes a key away."""

    def change(place: Path) -> None:
        content = json.loads((place / name).read_text())
        for key, value in values.items():
            inner = content
            *outer, last = key.split("__")
            for part in outer:
                inner = inner[part]
            if value is ...:
                del inner[last]
            else:
                inner[last] = value
        (place / name).write_text(json.dumps(content))

    return change


def tensors(name: str, update: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    """Other weights in a file."""

    def change(place: Path) -> None:
        weights = load_file(place / name)
        update(weights)
        save_file(weights, place / name, metadata={"format": "pt"})

    return change


def cut(name: str, size: int) -> Change:
    """Only the first bytes of a file."""
    return lambda place: (place / name).write_bytes((place / name).read_bytes()[:size])


def remove(name: str) -> Change:
    """A file that is not there."""
    return lambda place: (place / name).unlink()


def sharded(names: dict[str, Any] | list[Any] | None) -> Change:
    """An index in place of the one weight file."""

    def change(place: Path) -> None:
        base = place / "base"
        (base / "model.safetensors").rename(base / "part.safetensors")
        (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))

    return change


def fifo(name: str) -> Change:
    """A FIFO, which never ends, in a file's place."""

    def change(place: Path) -> None:
        (place / name).unlink()
        os.mkfifo(place / name)

    return change


def nan(weights: dict[str, torch.Tensor]) -> None:
    """One NaN in the first weight."""
    weights[sorted(weights)[0]].view(-1)[0] = torch.nan


class Marker:
    """What a pickle that is loaded runs."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("/tmp/basereward-pickle-was-loaded"),)


BASE_WEIGHTS, BASE_CONFIG, TOKENIZER = "base/model.safetensors", "base/config.json", "model/processor/tokenizer.json"
DEEP = '{"format": 1, "head": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}"

CASES: dict[str, tuple[str, Change, str]] = {
    "card is an array": ("head", write(CARD, "[]"), "reward_model.json"),
    "card is null": ("head", write(CARD, "null"), "reward_model.json"),
    "card is empty": ("head", write(CARD, ""), "reward_model.json"),
    "card is bytes": ("head", write(CARD, b"\xff\xfe\x00"), "reward_model.json"),
    "card is nested": ("head", write(CARD, DEEP), "nested"),
    "card of another format": ("head", edit(CARD, format=2), "format"),
    "card without head": ("head", edit(CARD, head=...), "head is missing"),
    "card without backbone": ("head", edit(CARD, backbone=...), "backbone is missing"),
    "card without scores": ("head", edit(CARD, scores=...), "scores is missing"),
    "card without kind": ("head", edit(CARD, kind=...), "kind is missing"),
    "head is text": ("head", edit(CARD, head="mlp"), "_target_"),
    "head unknown": ("head", edit(CARD, head={"_target_": "mpl"}), "mlp"),
    "head argument unknown": ("head", edit(CARD, head__leyers=3), "layers"),
    "backbone is a list": ("head", edit(CARD, backbone=[1]), "backbone"),
    "scores are text": ("head", edit(CARD, scores={"mean": "high"}), "scores"),
    "kind unknown": ("head", edit(CARD, kind="half"), "kind"),
    "dtype unknown": ("head", edit(CARD, backbone__dtype="float33"), "dtype"),
    "dtype is an attribute of torch": ("head", edit(CARD, backbone__dtype="nn"), "dtype"),
    "dtype is a number": ("head", edit(CARD, backbone__dtype=16), "dtype"),
    "quantization unknown": ("head", edit(CARD, backbone__quantization="weird"), "quantization"),
    "path is a number": ("head", edit(CARD, backbone__path=7), "path"),
    "path is null": ("head", edit(CARD, backbone__path=None), "path"),
    "path is gone": ("head", edit(CARD, backbone__path="/nowhere/at/all"), "/nowhere/at/all"),
    "revision is an object": ("head", edit(CARD, backbone__revision={}), "revision"),
    "identity is a list": ("head", edit(CARD, identity=[]), "identity"),
    "hashes are numbers": ("head", edit(CARD, identity__hashes={"weights": 1}), "hashes"),
    "head of a billion columns": ("head", edit(CARD, head__width=10**9), "width"),
    "head of ten million layers": ("head", edit(CARD, head__layers=10**7), "layers"),
    "head weights cut": ("head", cut(HEAD, 100), HEAD),
    "head weights empty": ("head", write(HEAD, b""), HEAD),
    "head weights gone": ("head", remove(HEAD), HEAD),
    "head weights a FIFO": ("head", fifo(HEAD), "FIFO"),
    "head weights a pickle": ("head", write(HEAD, pickle.dumps(Marker())), HEAD),
    "head weights whole numbers": (
        "head",
        tensors(HEAD, lambda held: held.update({name: each.to(torch.int8) for name, each in held.items()})),
        "int8",
    ),
    "head weights complex": (
        "head",
        tensors(HEAD, lambda held: held.update({name: each.to(torch.complex64) for name, each in held.items()})),
        "complex64",
    ),
    "head weights of eight bits": (
        "head",
        tensors(HEAD, lambda held: held.update({name: each.to(torch.float8_e4m3fn) for name, each in held.items()})),
        "float8_e4m3fn",
    ),
    "head weights NaN": ("head", tensors(HEAD, nan), "layers.0.bias"),
    "recipe gone": ("head", remove("model/recipe.yaml"), "recipe.yaml"),
    "recipe is a list": ("head", write("model/recipe.yaml", "[1, 2]"), "recipe.yaml"),
    "base weights a pickle": ("head", write(BASE_WEIGHTS, pickle.dumps(Marker())), BASE_WEIGHTS),
    "base weights cut": ("head", lambda place: cut(BASE_WEIGHTS, 100_000)(place), BASE_WEIGHTS),
    "base weights empty": ("head", write(BASE_WEIGHTS, b""), BASE_WEIGHTS),
    "base weights gone": ("head", remove(BASE_WEIGHTS), "model.safetensors"),
    "base header huge": ("head", write(BASE_WEIGHTS, (2**62).to_bytes(8, "little") + b"{}"), BASE_WEIGHTS),
    "base header no JSON": ("head", write(BASE_WEIGHTS, (5).to_bytes(8, "little") + b"hello"), BASE_WEIGHTS),
    "index leaves the folder": ("head", sharded({"a": "../base/part.safetensors"}), "part.safetensors"),
    "index is absolute": ("head", sharded({"a": "/etc/passwd"}), "/etc/passwd"),
    "index of a missing part": ("head", sharded({"a": "other.safetensors"}), "other.safetensors"),
    "index of numbers": ("head", sharded({"a": 1}), "weight_map"),
    "index of a list": ("head", sharded([]), "weight_map"),
    "index of nothing": ("head", sharded(None), "weight_map"),
    "config is an array": ("head", write(BASE_CONFIG, "[]"), BASE_CONFIG),
    "config without type": ("head", edit(BASE_CONFIG, model_type=...), "base"),
    "config of an unknown type": ("head", edit(BASE_CONFIG, model_type="qwen9"), "qwen9"),
    "config of a billion layers": ("head", edit(BASE_CONFIG, text_config__num_hidden_layers=10**9), "layers"),
    "config of layers of other kinds": ("head", edit(BASE_CONFIG, text_config__num_hidden_layers=5000), "layer_type"),
    "config of many layers": (
        "head",
        edit(BASE_CONFIG, text_config__num_hidden_layers=5000, text_config__layer_types=["full_attention"] * 5000),
        "more than",
    ),
    "config of negative layers": ("head", edit(BASE_CONFIG, text_config__num_hidden_layers=-1), "config.json"),
    "config of a huge width": ("head", edit(BASE_CONFIG, text_config__hidden_size=2**30), "config.json"),
    "config of a huge vocabulary": ("head", edit(BASE_CONFIG, text_config__vocab_size=2**31), "describes"),
    "config width is text": ("head", edit(BASE_CONFIG, text_config__hidden_size="wide"), "base"),
    "config width is a list": ("head", edit(BASE_CONFIG, text_config__hidden_size=[64]), "base"),
    "config activation unknown": ("head", edit(BASE_CONFIG, text_config__hidden_act="os.system"), "base"),
    "config of a billion labels": ("head", edit(BASE_CONFIG, num_labels=10**9), "num_labels"),
    "config names a kernel of the hub": (
        "head",
        edit(BASE_CONFIG, vision_config___attn_implementation="some-one/kernel"),
        "some-one/kernel",
    ),
    "config names kernels of the hub": (
        "head",
        edit(BASE_CONFIG, attn_implementation={"text_config": "some-one/kernel"}),
        "some-one/kernel",
    ),
    "config heads zero": ("head", edit(BASE_CONFIG, text_config__num_attention_heads=0), "base"),
    "base is an adapter": ("head", write("base/adapter_config.json", "{}"), "adapter"),
    "tokenizer broken": ("head", write(TOKENIZER, "{"), "processor"),
    "tokenizer is an array": ("head", write(TOKENIZER, "[]"), "processor"),
    "tokenizer expression broken": (
        "head",
        edit(TOKENIZER, pre_tokenizer={"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated"}),
        "processor",
    ),
    "tokenizer makes texts longer": (
        "head",
        edit(
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
        edit(TOKENIZER, normalizer={"type": "Prepend", "prepend": "a" * 10**6}),
        "normalizer",
    ),
    "tokenizer gone": ("head", remove(TOKENIZER), "processor"),
    "tokenizer a FIFO": ("head", fifo(TOKENIZER), "FIFO"),
    "template raises": (
        "head",
        write("model/processor/chat_template.jinja", "{{ raise_exception('never') }}"),
        "never",
    ),
    "template is no template": (
        "head",
        write("model/processor/chat_template.jinja", "{% for %}"),
        "chat_template.jinja",
    ),
    "template divides by zero": (
        "head",
        write("model/processor/chat_template.jinja", "{{ 1 // 0 }}"),
        "chat_template.jinja",
    ),
    "template gone": ("head", remove("model/processor/chat_template.jinja"), "chat template"),
    "pixels without end": (
        "head",
        edit("model/processor/preprocessor_config.json", size={"shortest_edge": 10**12, "longest_edge": 10**13}),
        "shortest_edge",
    ),
    **{
        f"image processor with {key} {value}": (
            "head",
            edit("model/processor/preprocessor_config.json", **{key: value}),
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
    "image processor is an array": ("head", write("model/processor/preprocessor_config.json", "[]"), "preprocessor"),
    "image processor unknown": (
        "head",
        edit("model/processor/preprocessor_config.json", image_processor_type="os.system"),
        "processor",
    ),
    "adapter config gone": ("adapter", remove(ADAPTER), "adapter_config.json"),
    "adapter config is an array": ("adapter", write(ADAPTER, "[]"), "adapter_config.json"),
    "adapter of rank a billion": ("adapter", edit(ADAPTER, r=10**9), "rank"),
    "adapter of text rank": ("adapter", edit(ADAPTER, r="2"), "rank"),
    "adapter of another method": ("adapter", edit(ADAPTER, peft_type="IA3"), "LORA"),
    "adapter repeats layers": ("adapter", edit(ADAPTER, layer_replication=[[0, 10**9]]), "layer_replication"),
    "adapter imports a module": ("adapter", edit(ADAPTER, megatron_config={"a": 1}), "megatron_config"),
    "adapter changes the base": ("adapter", edit(ADAPTER, init_lora_weights="pissa"), "init_lora_weights"),
    "adapter targets nothing": ("adapter", edit(ADAPTER, target_modules=["nothing"]), "adapter"),
    "adapter weights gone": ("adapter", remove("model/adapter/adapter_model.safetensors"), "adapter_model"),
    "adapter weights cut": ("adapter", cut("model/adapter/adapter_model.safetensors", 50), "adapter_model"),
    "adapter weights NaN": ("adapter", tensors("model/adapter/adapter_model.safetensors", nan), "lora_"),
    "own backbone a pickle": ("full", write("model/backbone/model.safetensors", pickle.dumps(Marker())), "backbone"),
    "own backbone gone": ("full", remove("model/backbone/model.safetensors"), "backbone"),
    "own config of another width": (
        "full",
        edit("model/backbone/config.json", text_config__hidden_size=48),
        "backbone",
    ),
}


@pytest.fixture(autouse=True)
def no_pickle_is_loaded() -> Iterator[None]:
    """Whatever a case does."""
    marker = Path("/tmp/basereward-pickle-was-loaded")
    marker.unlink(missing_ok=True)
    yield
    assert not marker.exists()


@pytest.mark.parametrize("case", CASES)
def test_a_broken_folder_is_a_model_error(case: str, saved: dict[str, Path], tmp_path: Path) -> None:
    """It names the file or the value, and nothing but `ModelError` comes out of any library."""
    kind, change, named = CASES[case]
    place = tmp_path / "copy"
    shutil.copytree(saved[kind], place)
    if kind != "full":
        edit(CARD, backbone__path=str(place / "base"))(place)
    change(place)
    with pytest.raises(ModelError) as caught:
        load_scorer(place / "model")
    assert named in str(caught.value)


@pytest.mark.parametrize("kind", ["full", "adapter", "head"])
def test_a_whole_copy_opens(kind: str, saved: dict[str, Path], tmp_path: Path) -> None:
    """So that the errors above are of the changes."""
    shutil.copytree(saved[kind], tmp_path / "copy")
    assert len(load_scorer(tmp_path / "copy" / "model").score("?", ["yes", "no"])) == 2
