"""Writes a generative judge as a chat checkpoint in the hub's format, which other trainers and servers open."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
)

from basereward.data.encoding.encoder import Encoder
from basereward.errors import ModelError
from basereward.io.files import cache_folder, files_below
from basereward.io.hashing import combined_sha256, file_sha256
from basereward.io.processes import remove_leftovers, temporary_name
from basereward.model.backbone import quiet_transformers
from basereward.model.lora import merge_lora, to_floating_point
from basereward.model.reward_model import RewardModel
from basereward.model.saving.card import CARD
from basereward.model.saving.saved_model import load_reward_model
from basereward.model.saving.whole_folder import open_to_readers

HASHED = ("*.safetensors", CARD)
"""Files of a saved model on which its chat checkpoint depends."""


def chat_checkpoint(folder: Path, *, target: Path | None = None) -> Path:
    """The folder of the chat checkpoint of a saved judge, which is written at the first call.

    Args:
        folder: written by `save_model`; its files must not change if `target` is given.
        target: the folder of the chat checkpoint; None: one in the cache, by the content of the judge.

    Returns:
        A folder with config, weights, tokenizer, chat template and image processor; adapters are merged.

    Raises:
        ModelError: the folder is not a saved model, or its head is not generative.
        OSError: the folder cannot be written.
    """
    if target is None:
        target = _in_cache(folder)
    if (target / "config.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent, ".making.*")
    partial = Path(tempfile.mkdtemp(prefix=temporary_name("making", "-"), dir=target.parent))
    try:
        model, _, encoder = load_reward_model(folder)
        write_chat_checkpoint(model, partial, encoder=encoder)
        partial.rename(target)
    except OSError:
        # If the folder exists, another process was faster, and wrote the same weights.
        if not (target / "config.json").is_file():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _in_cache(folder: Path) -> Path:
    files = [file for file in files_below(folder) if any(file.match(pattern) for pattern in HASHED)]
    digest = combined_sha256([(file.relative_to(folder).as_posix(), file_sha256(file)) for file in files])
    return cache_folder() / "policies" / digest[:16]


def write_chat_checkpoint(model: RewardModel, folder: Path, *, encoder: Encoder) -> None:
    """Write a judge as a chat checkpoint; its adapters are merged, and the model cannot be trained further.

    Args:
        model: with a generative head.
        folder: an empty folder.
        encoder: its tokenizer, chat template and image processor are written too.

    Raises:
        ModelError: the head is not generative, so that there is no language-model head.
    """
    if model.language is None:
        raise ModelError(
            f"a {type(model.head).__name__} writes no text, so the model has no language-model head and cannot be a "
            "policy. Give a run with a generative head, or a chat checkpoint"
        )
    chat = _chat_model(model)
    with quiet_transformers():
        chat.save_pretrained(folder)
        encoder.tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
        if encoder.image_processor is not None:
            encoder.image_processor.save_pretrained(folder)
        if encoder.videos is not None:
            encoder.videos.save_pretrained(folder)
    open_to_readers(folder)


def _chat_model(model: RewardModel) -> PreTrainedModel:
    """transformers' model with a language-model head, around the weights of a judge."""
    backbone, language = model.backbone, model.language
    assert language is not None
    if isinstance(backbone.model, PeftModel):
        backbone.model = merge_lora(backbone.model)
    elif backbone.quantization is not None:
        backbone.model = to_floating_point(backbone.transformer)
    transformer: Any = backbone.transformer
    reads_images = type(transformer.config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    auto: Any = AutoModelForImageTextToText if reads_images else AutoModelForCausalLM
    with torch.device("meta"), quiet_transformers():
        chat: Any = auto.from_config(transformer.config)
    setattr(chat, chat.base_model_prefix, transformer)
    is_tied = language.weight is None
    weight = language.of(transformer)
    output = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    # The same object where the two are tied, so that it is saved once.
    output.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight)
    chat.set_output_embeddings(output)
    for config in (chat.config, chat.config.get_text_config()):
        config.tie_word_embeddings = is_tied
    policy: PreTrainedModel = chat
    return policy
