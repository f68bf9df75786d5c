"""An InternVL3 small enough for two CPU cores, in the layout of the hub's `OpenGVLab/InternVL3-8B-hf`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from basereward.model.tiny_models._byte_level import CHAT_TEMPLATE, byte_level_tokenizer
from basereward.model.tiny_models._qwen import HEADS, language, spread, write_checkpoint

if TYPE_CHECKING:
    from transformers import InternVLConfig, InternVLForConditionalGeneration

SIDE = 56  # of a tile, in pixels: four tokens
IMAGE = "<IMG_CONTEXT>"  # one a picture in the chat template
NAMED_TOKENS = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": IMAGE}


def tiny_internvl(
    folder: Path,
    *,
    hidden_size: Annotated[int, Interval(ge=1, le=4096)] = 128,
    layers: Annotated[int, Interval(ge=1, le=64)] = 3,
    vision_layers: Annotated[int, Interval(ge=1, le=64)] = 3,
    initializer_range: float = 0.06,
    seed: int = 0,
) -> None:
    """An InternVL of random weights with a byte-level tokenizer; its language model is a Qwen2, as InternVL3's is.

    Args:
        folder: where to write; made when missing.
        hidden_size: width of the language model and of the vision tower; a multiple of 8.
        layers: layers of the language model.
        vision_layers: layers of the vision tower, which sees tiles of 56 x 56 pixels one by one.
        initializer_range: standard deviation of the weights.
        seed: of the weights.
    """
    from transformers import InternVLConfig

    template = CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", f"{IMAGE}\n")
    tokenizer = byte_level_tokenizer(chat_template=template, named_tokens=NAMED_TOKENS)
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **language(tokenizer, hidden_size=hidden_size, layers=layers)},
        vision_config={
            "num_hidden_layers": vision_layers,
            # Half as wide, as Qwen's towers are here, it stays at chance: experiments/LOG.md.
            "hidden_size": hidden_size,
            "intermediate_size": 4 * hidden_size,
            "num_attention_heads": HEADS,
            "image_size": [SIDE, SIDE],
            "patch_size": [14, 14],
            "layer_scale_init_value": 1.0,  # with the family's own 0.1 random layers learn more slowly
        },
        image_token_id=tokenizer.get_vocab()[IMAGE],
        image_seq_length=(SIDE // 28) ** 2,
    )
    spread(config, initializer_range)
    write_checkpoint(folder, lambda: _model(config, initializer_range), tokenizer=tokenizer, seed=seed)
    (folder / "preprocessor_config.json").write_text(json.dumps(_tiles(), indent=2) + "\n")


def _model(config: InternVLConfig, initializer_range: float) -> InternVLForConditionalGeneration:
    """With places drawn too: transformers starts them at zero, where a tower does not know one patch from another."""
    import torch
    from transformers import InternVLForConditionalGeneration

    model = InternVLForConditionalGeneration(config)
    embeddings = model.model.vision_tower.embeddings
    for zeros in (embeddings.cls_token, embeddings.position_embeddings):
        torch.nn.init.normal_(zeros, std=initializer_range)
    return model


def _tiles() -> dict[str, object]:
    """The settings of the image processor, with InternVL's own constants besides the size of a tile."""
    return {
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "processor_class": "InternVLProcessor",
        "crop_to_patches": False,
        "min_patches": 1,
        "max_patches": 12,
        "size": {"height": SIDE, "width": SIDE},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
