"""Builds a recipe's model on torch's meta device: the shapes of all weights, and which are trained."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModel, PreTrainedModel

from basereward.model.attention.gradient_checkpointing import enable_gradient_checkpointing
from basereward.model.backbone import Backbone, Origin, load_config, quiet_transformers
from basereward.model.families.lm_head import LanguageHead, holds_language_head
from basereward.model.families.parts import freeze
from basereward.model.heads.contracts import is_generative
from basereward.model.lora import add_lora
from basereward.model.pooling import Pooling
from basereward.model.reward_model import RewardModel, learns_language
from basereward.recipe import make
from basereward.recipe.schema import ModelRecipe
from basereward.recipe.trust import is_trusted


def outline(recipe: ModelRecipe, *, path: str) -> RewardModel:
    """Builds the model of `build_model` on torch's `meta` device, without memory and without computation.

    Only `config.json` and the names of weights are read from the checkpoint. Quantised weights have their shapes before
    quantisation.

    Args:
        recipe: section `model`.
        path: hub id or folder of the backbone.

    Raises:
        ModelError: the configuration cannot be reached, or its family is not supported.
    """
    settings = recipe.backbone
    config = load_config(path, revision=settings.revision, trust_remote_code=settings.trust_remote_code)
    with torch.device("meta"), quiet_transformers():
        model = AutoModel.from_config(
            config,
            dtype=getattr(torch, settings.dtype),
            # A recipe from elsewhere must not be able to run code by itself.
            trust_remote_code=settings.trust_remote_code and is_trusted(),
        )
        assert isinstance(model, PreTrainedModel)
        backbone = Backbone(model, origin=Origin(str(path)))
        head = make(recipe.head, "heads", backbone.hidden_size)
        assert isinstance(head, torch.nn.Module)
        if settings.quantization is not None:
            model.requires_grad_(False)
        if settings.gradient_checkpointing:
            enable_gradient_checkpointing(model, layers=settings.checkpoint_layers)
        if recipe.lora is not None:
            lora = recipe.lora
            backbone.model = add_lora(model, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, parts=lora.parts)
        # After the adapters, as in `build_model`: a frozen part freezes its adapters too.
        freeze(backbone, settings.freeze)
        language = None
        if is_generative(head):
            embedding: Any = model.get_input_embeddings()
            own = holds_language_head(path, config, revision=settings.revision)
            language = LanguageHead(torch.empty(embedding.weight.shape, dtype=model.dtype) if own else None)
            language.requires_grad_(learns_language(recipe))
    return RewardModel(backbone, head, language=language, pooling=Pooling(recipe.pooling)).train()
