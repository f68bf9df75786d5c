"""The profiles for one GPU, counted at the shapes of the published models on torch's meta device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from transformers import Qwen2_5_VLConfig, Qwen3VLConfig

from basereward import load_recipe
from basereward.model.cost.memory import Memory, PassTokens
from basereward.model.cost.meta_model import outline
from basereward.model.reward_model import RewardModel
from basereward.recipe.schema import Recipe
from basereward.training.cost.checkpointing import choose_checkpointed_layers
from basereward.training.cost.gpu_specs import GPUS
from basereward.training.cost.run_memory import USABLE, needed_devices, run_memory

GIB = 2**30
VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
# Those of config.json of the published checkpoints.
SHAPES: dict[str, dict[str, Any]] = {
    "3b": {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
    },
    "7b": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
}
QWEN3_TEXT = {
    "vocab_size": 151936,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
# Language model, vision tower.
QWEN3_SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "qwen3_vl_4b": (
        QWEN3_TEXT | {"hidden_size": 2560, "intermediate_size": 9728},
        {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]},
    ),
    "qwen3_vl_8b": (
        QWEN3_TEXT | {"hidden_size": 4096, "intermediate_size": 12288},
        {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]},
    ),
}
# Of a pair: a prompt of 1,024 visual tokens and 100 of text, and two answers of 300 tokens.
PAIR = PassTokens(tokens=1024 + 100 + 2 * 300, pooled=2, patches=4 * 1024)
BFLOAT16 = "model.backbone.dtype=bfloat16"


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Recipe, RewardModel, PassTokens]]:
    """Return a function that gives the recipe of a profile, its model without weights and its largest pass."""

    @lru_cache
    def folder(size: str) -> Path:
        path = tmp_path_factory.mktemp(size)
        if size in QWEN3_SHAPES:
            text, tower = QWEN3_SHAPES[size]
            tower = tower | {"out_hidden_size": text["hidden_size"]}
            Qwen3VLConfig(text_config=text, vision_config=tower).save_pretrained(path)
            return path
        vision = {**VISION, "out_hidden_size": SHAPES[size]["hidden_size"]}
        Qwen2_5_VLConfig(text_config=SHAPES[size], vision_config=vision).save_pretrained(path)
        return path

    def build(profile: str, *overrides: str) -> tuple[Recipe, RewardModel, PassTokens]:
        size = profile if profile in QWEN3_SHAPES else "3b" if "3b" in profile else "7b"
        path = str(folder(size))
        options = ["data.sources.pairs.path=pairs.jsonl", f"model.backbone.path={path}", *overrides]
        recipe = load_recipe("basereward", profile=profile, overrides=options)
        pairs = recipe.batch.groups_per_forward
        largest = PassTokens(*(pairs * number for number in dataclasses.astuple(PAIR)))
        return recipe, outline(recipe.model, path=path), largest

    return build


Counted = Callable[..., tuple[Recipe, RewardModel, PassTokens]]


def memory_of(counted: Counted, profile: str, *overrides: str) -> Memory:
    """Return the counted memory of a profile."""
    return run_memory(*counted(profile, *overrides))


@pytest.mark.parametrize(
    ("profile", "overrides", "gpu", "room"),
    [
        ("qwen2_5_vl_7b", [BFLOAT16, "optimizer.bfloat16=master"], "h200", 15 * GIB),
        ("qwen2_5_vl_7b", [BFLOAT16, "optimizer.bfloat16=stochastic"], "h200", 40 * GIB),
        ("qwen2_5_vl_3b", [BFLOAT16, "optimizer.bfloat16=master"], "h100", 15 * GIB),
        ("qwen2_5_vl_3b", [BFLOAT16, "optimizer.bfloat16=stochastic"], "h100", 30 * GIB),
        ("qwen3_vl_8b", [], "h200", 10 * GIB),
        ("qwen3_vl_8b", ["model.lora.rank=64", "optimizer.bfloat16=nearest"], "rtx4090", GIB),
        ("qwen3_vl_4b", [], "h100", 5 * GIB),
        ("qwen3_vl_4b", ["model.lora.rank=64", "optimizer.bfloat16=nearest"], "rtx4090", 5 * GIB),
        ("qwen2_5_vl_7b_lora", [], "h100", 40 * GIB),
        ("qwen2_5_vl_7b_qlora", [], "rtx4090", 5 * GIB),
    ],
    ids=[
        *("7b-master", "7b-stochastic", "3b-master", "3b-stochastic"),
        *("qwen3-8b", "qwen3-8b-lora", "qwen3-4b", "qwen3-4b-lora", "7b-lora", "7b-qlora"),
    ],
)
def test_profile_fits_with_room(profile: str, overrides: list[str], gpu: str, room: int, counted: Counted) -> None:
    """By count the peak leaves so much of the card."""
    held = memory_of(counted, profile, *overrides)
    assert held.peak + room <= GPUS[gpu].memory


@pytest.mark.parametrize(("profile", "published"), [("qwen3_vl_8b", 8.77e9), ("qwen3_vl_4b", 4.44e9)])
def test_shapes_are_those_of_the_published_size(profile: str, published: float, counted: Counted) -> None:
    """With the language-model head, which the 4B shares with its embeddings, the weights are as many as the hub says.
    An image has 256 to 1,280 visual tokens of 32 x 32 pixels."""
    recipe, model, _ = counted(profile)
    weights = sum(weight.numel() for weight in model.backbone.parameters())
    head = 0 if profile == "qwen3_vl_4b" else 151936 * 4096
    assert weights + head == pytest.approx(published, rel=1e-3)
    encoding = recipe.data.encoding
    assert (encoding.min_pixels, encoding.max_pixels) == (256 * 32 * 32, 1280 * 32 * 32)


def test_bytes_of_a_trained_weight(counted: Counted) -> None:
    """Weight, gradient, two moments and a master copy take 2 + 2 + 8 + 4 bytes, without the copy 12; in float32
    4 + 4 + 8, and autocast's copies besides."""
    _, model, _ = counted("qwen2_5_vl_7b", BFLOAT16, "optimizer.bfloat16=master")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad and p.element_size() == 2)
    head = sum(p.numel() for p in model.head.parameters())
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert trained > 7e9
    held = {
        update: memory_of(counted, "qwen2_5_vl_7b", BFLOAT16, f"optimizer.bfloat16={update}")
        for update in ("nearest", "stochastic", "master")
    }
    for update, size in (("nearest", 8), ("stochastic", 12), ("master", 16)):
        fixed = held[update].weights + held[update].gradients + held[update].moments + held[update].masters
        assert fixed == size * trained + 16 * head + 2 * frozen
        assert held[update].copies == 0
    assert memory_of(counted, "qwen2_5_vl_7b").copies > 0


def test_adapters_profile_stores_what_fits(counted: Counted) -> None:
    """By count the profile with adapters computes no layer again on 80 GB, and fits on 24 GB with most of them; that in
    four bits with some."""
    layers: dict[str, int] = {}
    for profile, gpu in (("lora", "h100"), ("lora", "rtx4090"), ("qlora", "rtx4090")):
        recipe, model, largest = counted(f"qwen2_5_vl_7b_{profile}")
        choice = choose_checkpointed_layers(recipe, model, largest, available=GPUS[gpu].memory)
        layers[f"{profile} {gpu}"] = choice.layers
        assert choice.peak <= USABLE * GPUS[gpu].memory
    assert layers["lora h100"] == 0
    assert 0 < layers["qlora rtx4090"] < layers["lora rtx4090"] < 28


@pytest.mark.parametrize(
    ("profile", "gpu", "expected"),
    [("qwen2_5_vl_7b", "h100", range(2, 9)), ("qwen2_5_vl_7b_lora", "h100", [1]), ("qwen2_5_vl_7b", "h200", [1, 2])],
)
def test_number_of_gpus_by_count(profile: str, gpu: str, expected: Sequence[int], counted: Counted) -> None:
    """All weights of 7B need several GPUs of 80 GB and adapters one. With half as many it does not fit."""
    recipe, model, largest = counted(profile)
    held, available = run_memory(recipe, model, largest), GPUS[gpu].memory
    number = needed_devices(recipe, held, available=available)
    assert number in expected
    # What fsdp2 divides, and what each GPU has of the rest, by hand.
    divided, whole = held.weights + held.gradients + held.moments, held.copies + held.activations + held.masters
    assert divided / number + whole <= USABLE * available
    if number > 1:
        assert divided / (number // 2) + whole > USABLE * available
