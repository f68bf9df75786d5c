"""A chat checkpoint as other trainers take it: transformers' own model and processor, which reads text and images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from peft import LoraConfig
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2_5_VLProcessor,
)
from transformers.processing_utils import ProcessorMixin

from basereward.errors import ModelError
from basereward.model.backbone import load_config, quiet_transformers
from basereward.model.families.parts import linear_layers
from basereward.model.saving.card import CARD
from basereward.model.saving.chat_checkpoint import chat_checkpoint
from basereward.model.saving.folder_checks import check_text_files, explained
from basereward.recipe.schema import LoraRecipe

# Families whose images have three-axis positions and one placeholder, which `ImageTextProcessor` writes.
IMAGE_FAMILIES = ("qwen2_5_vl", "qwen2_vl")


class ImageTextProcessor(Qwen2_5_VLProcessor):
    """Qwen-VL's processor without videos, so that it needs no torchvision.

    A batch may mix rows with and without images: the images of all rows are one list, in the order of their places.

    Args:
        image_processor: of the checkpoint.
        tokenizer: of the checkpoint.
        chat_template: of the checkpoint.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        # Not `super().__init__`, which asks for a processor of videos.
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    @property
    def model_input_names(self) -> list[str]:
        """What the model takes; the base also asks the processor of videos."""
        return ["input_ids", "attention_mask", "pixel_values", "image_grid_thw", "mm_token_type_ids"]

    def __call__(self, images: Any = None, text: Any = None, **options: Any) -> Any:
        """As of the base, with rows of images that may be empty or None."""
        return super().__call__(images=_flat(images), text=text, **options)


class Policy(NamedTuple):
    """A model that learns to write, and what turns messages into its inputs.

    Attributes:
        model: with its language-model head.
        processor: an `ImageTextProcessor`, or the tokenizer of a model that reads text alone. It pads on the left, as
            generation needs.
    """

    model: PreTrainedModel
    processor: ImageTextProcessor | PreTrainedTokenizerBase

    @property
    def reads_images(self) -> bool:
        """Whether prompts may have images."""
        return isinstance(self.processor, ImageTextProcessor)


def load_policy(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    image_backend: Literal["pil", "torchvision"] = "pil",
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> Policy:
    """Loads a chat checkpoint of Qwen2-VL or Qwen2.5-VL, or of a text-only causal model.

    Args:
        path: hub id or folder; also the folder of a judge that was saved here, whose chat checkpoint is then loaded.
        revision: branch, tag or commit of the hub repository.
        dtype: of the weights.
        image_backend: which of transformers' image processors is used.
        min_pixels, max_pixels: size of an image after resizing; None: the image processor's own limit.

    Raises:
        ModelError: the checkpoint cannot be loaded, lacks weights, or is of another family that reads images.
    """
    if (Path(path) / CARD).is_file():
        path, revision = chat_checkpoint(Path(path)), None
    config = load_config(path, revision=revision)
    reads_images = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if reads_images and config.model_type not in IMAGE_FAMILIES:
        raise ModelError(
            f"'{path}' is of the family {config.model_type}; families with images that can be a policy: "
            f"{', '.join(IMAGE_FAMILIES)}. Take a checkpoint of one of them, or a text-only model"
        )
    check_text_files(path, revision=revision)
    with quiet_transformers(), explained(path):
        auto: Any = AutoModelForImageTextToText if reads_images else AutoModelForCausalLM
        model, loading = auto.from_pretrained(path, revision=revision, dtype=dtype, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, padding_side="left")
    if loading["missing_keys"]:
        raise ModelError(
            f"'{path}' lacks weights of the model, such as {sorted(loading['missing_keys'])[0]}; a policy needs its "
            "language-model head too. Take a chat checkpoint, not a reward model"
        )
    if not reads_images:
        return Policy(model, tokenizer)
    sizes = {"min_pixels": min_pixels, "max_pixels": max_pixels}
    limits = {name: pixels for name, pixels in sizes.items() if pixels is not None}
    with quiet_transformers(), explained(path):
        images = AutoImageProcessor.from_pretrained(path, revision=revision, backend=image_backend, **limits)
        processor = ImageTextProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
    return Policy(model, processor)


def policy_adapters(policy: Policy, lora: LoraRecipe) -> LoraConfig:
    """peft's settings for adapters on every linear layer of some parts of a policy, without its language-model head.

    Args:
        policy: without adapters.
        lora: section `model.lora` of a recipe.

    Raises:
        ModelError: the policy has no linear layer in the parts.
    """
    prefix = policy.model.base_model_prefix
    targets = [f"{prefix}.{name}" for name in linear_layers(policy.model.base_model, lora.parts)]
    if not targets:
        raise ModelError(
            f"model.lora.parts is {lora.parts}, and the policy has no linear layer in these parts; allowed are vision, "
            "merger and language. A text-only model has only language"
        )
    return LoraConfig(
        r=lora.rank,
        # peft declares an int, and uses the number only in a division.
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        target_modules=targets,
        bias="none",
    )


def _flat(images: Any) -> Any:
    """The images of all rows in one list; None if there is none.

    >>> _flat([["a"], None, [], ["b", "c"]]), _flat([[], None])
    (['a', 'b', 'c'], None)
    """
    if not isinstance(images, Sequence) or not all(row is None or isinstance(row, Sequence) for row in images):
        return images
    flat: list[Any] = []
    for row in images:
        flat += row or ()
    return flat or None
