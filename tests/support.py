"""What several tests are made of: small checkpoints of every family, groups with real pictures, a recipe that trains in
seconds.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor, nn

from basereward.data.encoding import EncodedGroup
from basereward.data.group import IMAGE, Group, Part, Preference, Turn, rank_preferences
from basereward.data.sources.digits import draw
from basereward.model.makers.tiny_qwen2_5_vl import (
    byte_level_tokenizer,
    tiny_config,
    tiny_qwen2_5_vl,
    write_image_processor,
)

VISION = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "internvl")
TEXT = ("qwen2", "qwen3", "llama")

# A run of a few steps on a few groups: enough to go through every stage, not to learn.
SMALL = (
    "data.sources.digits.size=24",
    "data.sources.digits.copies=1",
    "data.sources.digits.val_size=12",
    "data.sources.digits.test_size=12",
    "data.sources.numbers.size=40",
    "data.sources.numbers.val_size=12",
    "data.sources.numbers.test_size=12",
    "model.backbone.make.hidden_size=64",
    "model.backbone.make.layers=2",
    "model.backbone.make.vision_layers=2",
    "batch.groups=8",
    "batch.groups_per_forward=4",
    "trainer.steps=6",
    "trainer.validations=2",
    "trainer.log_every=1",
)


def checkpoint(family: str, folder: Path) -> Path:
    """A small checkpoint of a family with random weights, in the hub's on-disk format."""
    if family == "qwen2_5_vl":
        tiny_qwen2_5_vl(folder, hidden_size=64, layers=2, vision_layers=2)
        return folder
    torch.manual_seed(0)
    tokenizer = byte_level_tokenizer() if family != "internvl" else _internvl_tokenizer()
    if family in VISION:
        model = {"qwen2_vl": _qwen2_vl, "qwen3_vl": _qwen3_vl, "internvl": _internvl}[family](tokenizer, folder)
    else:
        model = _text_model(family, len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _qwen2_vl(tokenizer: Any, folder: Path) -> Any:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    like = tiny_config(tokenizer, hidden_size=64, layers=2, vision_layers=2)
    folder.mkdir(parents=True, exist_ok=True)
    write_image_processor(folder, like)
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2}
    text = like.text_config.to_dict()
    text.pop("model_type")
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **_vision_ids(like)))


def _vision_ids(config: Any) -> dict[str, Any]:
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {name: getattr(config, name) for name in names}


def _qwen3_vl(tokenizer: Any, folder: Path) -> Any:
    """Two of its three layers take states of deeper blocks; its heads together are wider than its stream."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    like = tiny_config(tokenizer, hidden_size=64, layers=2, vision_layers=2)
    like.vision_config.patch_size = 16
    folder.mkdir(parents=True, exist_ok=True)
    write_image_processor(folder, like)
    vision = {"depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
    vision |= {"num_position_embeddings": 36, "deepstack_visual_indexes": [0, 1]}
    text = {name: getattr(like.text_config, name) for name in ("hidden_size", "vocab_size", "max_position_embeddings")}
    text |= {"intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    text |= {"head_dim": 24, "rope_parameters": {"rope_type": "default", "mrope_section": [4, 4, 4], "rope_theta": 1e6}}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **_vision_ids(like))
    return Qwen3VLForConditionalGeneration(config)


def _internvl_tokenizer() -> Any:
    """With InternVL's tokens, of which its chat template writes one for an image."""
    from transformers import PreTrainedTokenizerFast

    like = byte_level_tokenizer()
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    like.add_tokens(list(names.values()), special_tokens=True)
    template = like.chat_template.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n")
    return PreTrainedTokenizerFast(
        tokenizer_object=like.backend_tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=names,
        chat_template=template,
    )


def _internvl(tokenizer: Any, folder: Path) -> Any:
    """Its tiles have 56 pixels a side, and four tokens."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    processor = {"image_processor_type": "GotOcr2ImageProcessorFast", "processor_class": "InternVLProcessor"}
    tiles = {"crop_to_patches": False, "min_patches": 1, "max_patches": 12, "size": {"height": 56, "width": 56}}
    colours = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | tiles | colours))
    size = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    vision = size | {"hidden_size": 32, "image_size": [56, 56], "patch_size": [14, 14]}
    text = size | {"model_type": "qwen2", "hidden_size": 64, "num_key_value_heads": 2, "vocab_size": len(tokenizer)}
    image = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    config = InternVLConfig(text_config=text, vision_config=vision, image_token_id=image, image_seq_length=4)
    model = InternVLForConditionalGeneration(config)
    for zeros in (
        model.model.vision_tower.embeddings.cls_token,
        model.model.vision_tower.embeddings.position_embeddings,
    ):
        torch.nn.init.normal_(zeros, std=0.02)
    return model


def _text_model(family: str, vocabulary: int) -> Any:
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    classes = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }
    config, model = classes[family]
    size = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 16,
    }
    if family == "qwen2":
        size.pop("head_dim")
    return model(config(vocab_size=vocabulary, num_key_value_heads=2, **size))


def picture(index: int, *, side: int = 56) -> PIL.Image.Image:
    """A scanned digit; not square, so that height and width cannot be mistaken for each other."""
    return draw(index, side=side).resize((side, side + 28))


def group(
    text: str = "Which digit?",
    responses: tuple[str, ...] = ("It is a seven.", "4", "This is the number eight."),
    *,
    images: int = 0,
    name: str = "g",
    turns: tuple[Turn, ...] = (),
) -> Group:
    """A group of K ranked responses to a prompt with `images` pictures before its text."""
    parts = (*[IMAGE] * images, Part(text))
    return Group(
        id=name,
        source="test",
        prompt=(*turns, Turn("user", parts)),
        responses=responses,
        preferences=rank_preferences(range(len(responses))),
        images=tuple(picture(i) for i in range(images)),
    )


def encoded_group(
    prefix: int,
    branches: Sequence[int],
    preferences: tuple[Preference, ...] | None = None,
    *,
    name: str = "g",
    source: str = "test",
) -> EncodedGroup:
    """A text-only group of so many tokens, all different, from 1; every branch has its end of turn. The responses are
    ranked from first to last unless preferences are given."""
    ids = torch.arange(1, 1 + prefix + sum(branches))
    ranked = rank_preferences(range(len(branches)))
    return EncodedGroup(
        id=name,
        source=source,
        prefix=ids[:prefix],
        positions=torch.arange(prefix),
        branches=tuple(ids[prefix:].split(list(branches))),
        preferences=ranked if preferences is None else preferences,
    )


def mixed_groups(*, vision: bool) -> list[Group]:
    """Groups of different shapes: no image, one, several; one, two and four responses; several turns and a
    system turn."""
    before = (
        Turn("system", (Part("Judge digits."),)),
        Turn("user", (Part("Hello."),)),
        Turn("assistant", (Part("Hello! What do you need?"),)),
    )
    text = [
        group("Which is larger, 4 or 7?", ("7", "It is 4."), name="text"),
        group("Name one.", ("One, and no more.", "Two", "three", "4"), name="turns", turns=before),
        group("Say it.", ("a single answer",), name="single"),
    ]
    if not vision:
        return text
    return [
        *text,
        group(images=1, name="picture"),
        group("Which of the two?", ("left", "the right one"), images=2, name="two"),
    ]


def only(path: Path) -> list[str]:
    """Overrides that make a JSON Lines file the one source of the small run, under the name `mine`."""
    kept = [override for override in SMALL if not override.startswith("data.sources.")]
    mine = ["data.sources.mine.include=sources/jsonl", f"data.sources.mine.path={path}"]
    return [*kept, "data.sources.digits=null", "data.sources.numbers=null", *mine]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all gradients, by name, and a clean slate."""
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def write_rows(path: Path, rows: list[Any]) -> Path:
    """Rows as a JSON Lines file; a str is written as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def pair_rows(number: int, *, folder: Path | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """Preference pairs in TRL's columns; with a folder, each has a picture there."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for index in range(number):
        row: dict[str, Any] = {
            "id": f"row-{index}",
            "prompt": [{"role": "user", "content": f"Question {index}: which is right?"}],
            "chosen": [{"role": "assistant", "content": "yes " * rng.randint(1, 5)}],
            "rejected": [{"role": "assistant", "content": "no " * rng.randint(1, 5)}],
        }
        if folder is not None:
            picture(index).save(folder / f"{index}.png")
            row["images"] = [f"{index}.png"]
        rows.append(row)
    return rows
