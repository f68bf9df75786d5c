"""An InternVL3 small enough for two CPU cores, in the layout of the hub's `OpenGVLab/InternVL3-8B-hf`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from basereward.model.tiny_models._byte_level import CHAT_TEMPLATE, byte_level_tokenizer
from basereward.model.tiny_models._checkpoint import HEADS, TinySizes, image_model, text_settings

if TYPE_CHECKING:
    from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

# Side of a tile in pixels, which gives four tokens.
SIDE = 56
# The chat template writes one of these for each image.
IMAGE_TOKEN = "<IMG_CONTEXT>"
NAMED_TOKENS = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": IMAGE_TOKEN}
PREPROCESSOR = {
    # InternVL's own constants, except for the size of a tile.
    "image_processor_type": "GotOcr2ImageProcessorFast",
    "processor_class": "InternVLProcessor",
    "crop_to_patches": False,
    "min_patches": 1,
    "max_patches": 12,
    "size": {"height": SIDE, "width": SIDE},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def _tokenizer() -> PreTrainedTokenizerFast:
    template = CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", f"{IMAGE_TOKEN}\n")
    return byte_level_tokenizer(chat_template=template, named_tokens=NAMED_TOKENS)


def _initialise(model: InternVLForConditionalGeneration, initializer_range: float) -> None:
    """Draws the class token and the position embeddings.

    transformers starts them at zero, where the vision tower cannot tell one patch from another.
    """
    import torch

    embeddings = model.model.vision_tower.embeddings
    for parameter in (embeddings.cls_token, embeddings.position_embeddings):
        torch.nn.init.normal_(parameter, std=initializer_range)


@image_model(
    config="InternVLConfig",
    model="InternVLForConditionalGeneration",
    preprocessor=PREPROCESSOR,
    tokenizer=_tokenizer,
    initialise=_initialise,
)
def tiny_internvl(sizes: TinySizes, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """An InternVL of random weights; `hidden_size` is a multiple of 8.

    Its language model is a Qwen2, as in InternVL3. The vision tower encodes tiles of 56 x 56 pixels one by one.
    """
    return {
        "text_config": {"model_type": "qwen2", **text_settings(sizes, tokenizer)},
        "vision_config": {
            "num_hidden_layers": sizes.vision_layers,
            # With half the width, as in the Qwen towers here, it stays at chance: experiments/LOG.md.
            "hidden_size": sizes.hidden_size,
            "intermediate_size": 4 * sizes.hidden_size,
            "num_attention_heads": HEADS,
            "image_size": [SIDE, SIDE],
            "patch_size": [14, 14],
            # With the family's own 0.1, random layers learn more slowly.
            "layer_scale_init_value": 1.0,
        },
        "image_token_id": tokenizer.get_vocab()[IMAGE_TOKEN],
        # Patches of 14 pixels, two by two.
        "image_seq_length": (SIDE // 28) ** 2,
    }
