"""A reward model: a backbone and a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Cache

from basereward.data.tree import TreeBatch
from basereward.model.backbone import Backbone, load_backbone
from basereward.model.lora import add_lora
from basereward.model.parts import freeze, part_of
from basereward.recipe import make
from basereward.recipe.schema import ModelRecipe


class RewardModel(nn.Module):
    """Scores every response of a batch of groups.

    Args:
        backbone: batches to hidden states `(B, D)`.
        head: hidden states `(B, D)` in float32 to scores `(B,)`.
    """

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head.float()

    def forward(self, batch: TreeBatch, *, cache: Cache | None = None) -> Tensor:
        """Scores, shape `(B,)`, in float32 whatever the backbone's precision; `cache` as the backbone takes it."""
        pooled = self.backbone(batch, cache=cache)
        with torch.autocast(pooled.device.type, enabled=False):
            scores: Tensor = self.head(pooled.float())
        return scores

    def parts(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Trained parameters with their names, by part: vision, merger, language, head."""
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                part = "head" if name.startswith("head.") else part_of(name)
                groups.setdefault(part, []).append((name, parameter))
        return groups


def build_model(recipe: ModelRecipe, *, path: str, seed: int) -> RewardModel:
    """The model of a recipe, ready to be trained.

    Args:
        recipe: section `model`.
        path: hub id or folder of the backbone.
        seed: of the head's and the adapters' first weights.
    """
    settings = recipe.backbone
    backbone = load_backbone(
        path,
        revision=settings.revision,
        dtype=getattr(torch, settings.dtype),
        quantization=settings.quantization,
        gradient_checkpointing=settings.gradient_checkpointing,
        checkpoint_layers=settings.checkpoint_layers,
        kernels=settings.kernels,
        trust_remote_code=settings.trust_remote_code,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = make(recipe.head, "heads", backbone.hidden_size)
    assert isinstance(head, nn.Module)
    if recipe.lora is not None:
        lora = recipe.lora
        backbone.model = add_lora(
            backbone.transformer,
            rank=lora.rank,
            alpha=lora.alpha,
            dropout=lora.dropout,
            rslora=lora.rslora,
            parts=lora.parts,
            seed=seed,
        )
    freeze(backbone, settings.freeze)
    return RewardModel(backbone, head).train()
