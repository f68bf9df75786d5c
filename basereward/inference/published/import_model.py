"""Opens a published scalar reward model, and saves it as a model of ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from basereward.errors import ModelError, RecipeError
from basereward.inference.published.layouts import PublishedHead, published_head
from basereward.inference.scorer import Scorer
from basereward.io.outputs import check_outputs
from basereward.model.backbone import load_backbone, load_config
from basereward.model.families.processing import recipe_encoder
from basereward.model.reward_model import RewardModel
from basereward.model.saving.card import DTYPES
from basereward.model.saving.saved_model import copy_exactly
from basereward.recipe import make
from basereward.recipe.schema import BackboneRecipe, DataRecipe, EncodingRecipe, ModelRecipe, Recipe

MAX_TOKENS = 32_768


def import_model(path: str | Path, folder: Path, *, revision: str | None = None) -> dict[str, Any]:
    """Saves a published reward model in a folder that `load` opens; its backbone is copied.

    Scores are read where the authors read them: at the last token of what the chat template writes.

    Args:
        path: hub id or folder of the checkpoint.
        folder: where to write; it replaces an older saved model.
        revision: branch, tag or commit of the hub repository.

    Returns:
        `out`, `layout`, `head` and `family`.

    Raises:
        ModelError: the checkpoint has no head of a known layout, its family is not supported, or its weights do not
            fit; or the folder is not free.
        CheckpointError: the folder cannot be written.
    """
    source = os.path.abspath(os.path.expanduser(path)) if os.path.isdir(os.path.expanduser(path)) else str(path)
    inputs = [source] if os.path.isdir(source) else []
    check_outputs({"--out": folder}, inputs, read_whole=inputs, error=ModelError)
    head = published_head(source, revision=revision)
    scorer = _scorer(source, head, revision=revision)
    scorer.save(folder)
    family = str(scorer.model.backbone.transformer.config.model_type)
    return {"out": str(folder), "layout": head.layout, "head": head.node, "family": family}


def _scorer(path: str, published: PublishedHead, *, revision: str | None) -> Scorer:
    """A published model, ready to score.

    Raises:
        ModelError: its family is not supported, or its weights do not fit.
    """
    # Never with code of the checkpoint: all that is needed of it is in transformers.
    config = load_config(path, revision=revision)
    dtype = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
    # float16 overflows in training, and recipes do not have it.
    dtype = dtype if dtype in DTYPES and dtype != "float16" else "float32"
    recipe = _recipe(path, published, config=config, dtype=dtype, revision=revision)
    backbone = load_backbone(path, revision=revision, dtype=getattr(torch, dtype))
    try:
        head = make(published.node, "heads", backbone.hidden_size)
    except RecipeError as error:
        raise ModelError(f"the head of '{path}': {error}") from error
    assert isinstance(head, nn.Module)
    if faults := copy_exactly(head.state_dict(), published.weights):
        raise ModelError(f"the head of '{path}' does not fit its backbone:\n  " + "\n  ".join(faults))
    # The saved model has neither the code of the checkpoint nor the layout of its head.
    for key in ("auto_map", "reward_head"):
        vars(backbone.transformer.config).pop(key, None)
    # Its weights were trained, so they are saved with the model.
    backbone.merged = True
    encoder = recipe_encoder(recipe, path=path, revision=revision)
    return Scorer(RewardModel(backbone, head, encoder=encoder).eval(), encoder=encoder, recipe=recipe)


def _recipe(path: str, published: PublishedHead, *, config: Any, dtype: str, revision: str | None) -> Recipe:
    """A recipe that says how the model scores; how it was trained is not known."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or MAX_TOKENS
    return Recipe(
        name=Path(path).name,
        summary=f"imported from {path if not os.path.isdir(path) else Path(path).name}",
        model=ModelRecipe(
            backbone=BackboneRecipe(path=path, revision=revision, dtype=dtype),  # type: ignore[arg-type]
            head=published.node,
        ),
        data=DataRecipe(
            sources={"unknown": {"_target_": "jsonl", "path": "unknown"}},
            encoding=EncodingRecipe(max_tokens=min(positions, MAX_TOKENS), ending="template"),
        ),
    )
