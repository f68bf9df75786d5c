"""The reward model: a backbone, a head, and for a generative head the backbone's language-model head."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from basereward.data.batching.branch_edits import remove_targets
from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.encoding.encoder import Encoder
from basereward.errors import ModelError
from basereward.model.backbone import Backbone, load_backbone
from basereward.model.families.lm_head import LanguageHead, load_language_head
from basereward.model.families.parts import freeze, part_of
from basereward.model.generation.generate import check_language_head
from basereward.model.generation.response_generator import ResponseGenerator
from basereward.model.heads.contracts import (
    GeneratedTextHead,
    GenerativeHead,
    check_scores,
    check_shape,
    head_scores,
    is_generative,
)
from basereward.model.lora import add_lora
from basereward.model.meta_device import build_on_meta_device
from basereward.model.output_checks import check_initialized
from basereward.model.pooling import LAST, Pooling
from basereward.recipe import make
from basereward.recipe.schema import BackboneRecipe, LoraRecipe, ModelRecipe, Node


class RewardModel(nn.Module):
    """Scores every response of a batch of groups.

    Args:
        backbone: batches to hidden states `(B, D)`.
        head: hidden states `(B, D)` in float32 to scores `(B,)`; see `heads.contracts`.
        language: the language-model head of the backbone, for a generative head.
        pooling: which hidden states of a branch the head reads.
        encoder: the encoder of the batches, for a generative head; without it the model cannot generate, which is
            enough to count costs and to save.

    Attributes:
        generator: generates text for a generative head; None for a scalar head, or without `encoder`.

    Raises:
        ModelError: the head is generative and `pooling` is not `last`; or the head does not give one score for each
            hidden state.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        *,
        language: LanguageHead | None = None,
        pooling: Pooling = LAST,
        encoder: Encoder | None = None,
    ) -> None:
        super().__init__()
        check_initialized(head, "head")
        self.backbone = backbone
        # Scores and losses are in float32 whatever the precision of the backbone.
        self.head = head.float()
        self.language = language
        self.pooling = pooling
        check_scores(self.head, backbone.hidden_size)
        if is_generative(head) and pooling != LAST:
            raise ModelError(
                f"a generative head reads the last token of its text, and model.pooling is {pooling.name}. "
                "Set model.pooling=last."
            )
        self.generator: ResponseGenerator | None = None
        if is_generative(head) and encoder is not None and language is not None:
            self.generator = ResponseGenerator(encoder, backbone, language)

    def forward(self, batch: TreeBatch, *, cache: Cache | None = None) -> Tensor:
        """Scores `(B,)` in float32; `cache` is passed to the backbone, see `Backbone.hidden_states`."""
        return head_scores(self.head, self.pooled(batch, cache=cache))

    def pooled(self, batch: TreeBatch, *, cache: Cache | None = None) -> Tensor:
        """The input of the head, `(B, D)`: states that the batch carries, or those of the backbone in its precision."""
        if batch.pooled is not None:
            return batch.pooled
        states: Tensor = self.backbone(batch, pooling=self.pooling, cache=cache)
        return states

    def generated_scores(self, batch: TreeBatch) -> Tensor:
        """Scores `(K,)`, with gradients, at the end of text that the model generates in place of the targets."""
        head = self.head
        assert isinstance(head, GeneratedTextHead)
        assert self.generator is not None
        (generated,) = head.append_generated(self.generator.counting(), remove_targets(batch), samples=1)
        scores: Tensor = self(generated)
        return scores

    def language_loss(self, hidden: Tensor, batch: TreeBatch) -> Tensor:
        """The weighted cross-entropy of target tokens.

        Args:
            hidden: `(R, T, D)`, hidden states of all tokens of the batch.
            batch: with target tokens.
        """
        assert self.language is not None
        rows, columns = batch.targets.positions.unbind(1)
        targets = batch.rows.input_ids[rows, columns]
        # The state at one position predicts the token at the next.
        before = hidden[rows, columns - 1]
        return self.language.loss(self.backbone.transformer, before, targets, batch.targets.weights)

    def response_scores(self, batch: TreeBatch, *, tally: Counter[str] | None = None) -> Tensor:
        """Scores `(K,)` of responses, as in scoring: a generative head generates its text first.

        Args:
            tally: counters of the generated text that are increased; see `ResponseGenerator`.
        """
        head = self.head
        if self.generator is None or not isinstance(head, GenerativeHead):
            scores: Tensor = self(batch)
            return scores
        # A judge passes the batch through the backbone several times; the vision tower runs once.
        with_features = self.backbone.vision.with_features(self.backbone.transformer, batch)
        judged = head.judge(self.generator.counting(tally), with_features)
        check_shape(head, judged, sum(batch.responses))
        return judged

    def parts(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Trained parameters with their names, by part: vision, merger, language, head.

        Parts have learning rates of their own.
        """
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                part = "head" if name.startswith("head.") else part_of(name)
                groups.setdefault(part, []).append((name, parameter))
        return groups


def learns_language(recipe: ModelRecipe) -> bool:
    """Whether the weight of the language-model head is trained: only together with the language model's own weights."""
    settings = recipe.backbone
    return recipe.lora is None and settings.quantization is None and "language" not in settings.freeze


def _backbone(settings: BackboneRecipe, *, path: str) -> Backbone:
    return load_backbone(
        path,
        revision=settings.revision,
        dtype=getattr(torch, settings.dtype),
        quantization=settings.quantization,
        gradient_checkpointing=settings.gradient_checkpointing,
        checkpoint_layers=settings.checkpoint_layers,
        kernels=settings.kernels,
        trust_remote_code=settings.trust_remote_code,
    )


def check_head_size(node: Node, *, hidden_size: int) -> None:
    """Compares the memory that training a head takes with the memory of this machine.

    The head is built on torch's meta device, so nothing is allocated.

    Raises:
        ModelError: the constructor of the head does not call that of its base class; or weights, gradients and
            the two moments of AdamW, in float32, are larger than this machine's memory.
    """
    head = build_on_meta_device(lambda: make(node, "heads", hidden_size))
    if not isinstance(head, nn.Module):
        return
    check_initialized(head, "head")
    weights = sum(parameter.numel() for parameter in head.parameters())
    tensors, bytes_per_number = 4, 4  # weight, gradient, two moments
    needed = tensors * bytes_per_number * weights
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise ModelError(
            f"head '{node.get('_target_')}' has {weights:,} weights; training them takes {needed / 2**30:,.0f} GiB, "
            f"and this machine has {memory / 2**30:,.0f} GiB. Use fewer layers or a smaller width."
        )


def build_model(
    recipe: ModelRecipe, *, path: str, seed: int, backbone: Backbone | None = None, encoder: Encoder | None = None
) -> RewardModel:
    """Builds the model of a recipe, ready to be trained.

    Args:
        recipe: section `model`.
        path: hub id or folder of the backbone.
        seed: of the initial weights of the head and of the adapters.
        backbone: the backbone of the recipe if it is loaded already; it must be as loaded, without adapters.
        encoder: the encoder of the batches; a generative head needs it to generate.

    Raises:
        ModelError: the checkpoint cannot be loaded, lacks what the head needs, or no weight would be trained.
    """
    settings = recipe.backbone
    backbone = backbone or _backbone(settings, path=path)
    with torch.random.fork_rng(devices=[]):
        check_head_size(recipe.head, hidden_size=backbone.hidden_size)
        torch.manual_seed(seed)
        head = make(recipe.head, "heads", backbone.hidden_size)
    if not isinstance(head, nn.Module):
        raise ModelError(
            f"head '{recipe.head.get('_target_')}' makes a {type(head).__name__}; a head must be a torch.nn.Module "
            "that maps hidden states (B, D) to scores (B,)."
        )
    if recipe.lora is not None:
        _add_adapters(backbone, recipe.lora, seed=seed)
    # After the adapters: peft freezes everything else, and a frozen part freezes its adapters too.
    freeze(backbone, settings.freeze)
    language = _language_head(recipe, backbone, path=path) if is_generative(head) else None
    model = RewardModel(backbone, head, language=language, pooling=Pooling(recipe.pooling), encoder=encoder)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(
            f"nothing would be trained: model.backbone.freeze is {settings.freeze}, and head "
            f"'{recipe.head.get('_target_')}' has no weights of its own. Freeze less, or set model.lora."
        )
    return model.train()


def _add_adapters(backbone: Backbone, lora: LoraRecipe, *, seed: int) -> None:
    backbone.model = add_lora(
        backbone.transformer,
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        rslora=lora.rslora,
        parts=lora.parts,
        seed=seed,
    )


def _language_head(recipe: ModelRecipe, backbone: Backbone, *, path: str) -> LanguageHead:
    embedding: Any = backbone.transformer.get_input_embeddings()
    language = load_language_head(
        path,
        backbone.transformer.config,
        embedding=embedding.weight,
        revision=recipe.backbone.revision,
        dtype=getattr(torch, recipe.backbone.dtype),
    )
    check_language_head(backbone, language)
    language.requires_grad_(learns_language(recipe))
    return language
