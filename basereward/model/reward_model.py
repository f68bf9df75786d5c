"""A reward model: a backbone and a head, and where the head is generative the backbone's language head."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from basereward.data.batching.continued import unwritten
from basereward.data.batching.tree_batch import TreeBatch
from basereward.errors import ModelError
from basereward.model.backbone import Backbone, load_backbone
from basereward.model.families.lm_head import LanguageHead, load_language_head
from basereward.model.families.parts import freeze, part_of
from basereward.model.generation.generate import check_language_head
from basereward.model.generation.response_generator import GenerativeHead, ResponseGenerator, is_generative
from basereward.model.lora import add_lora
from basereward.model.pooling import LAST, Pooling
from basereward.recipe import make
from basereward.recipe.schema import BackboneRecipe, ModelRecipe, Node


@dataclass(frozen=True, slots=True)
class Outputs:
    """Of a training pass."""

    scores: tuple[Tensor, ...]  # (K,) each, to be ranked: one, none of a head that learns by language alone, or two
    language: Tensor | None = None  # of the tokens that are taught, if there are any: the weighted mean over groups of
    # the mean cross-entropy


class RewardModel(nn.Module):
    """Scores every response of a batch of groups.

    Args:
        backbone: batches to hidden states `(B, D)`.
        head: hidden states `(B, D)` in float32 to scores `(B,)`.
        language: the backbone's language head, where the head is generative.
        pooling: which of a branch's hidden states the head reads.

    Attributes:
        voice: what lets it speak; None until it is given the encoder.

    Raises:
        ModelError: the head is generative, and is not to read where its text ends; or it does not give one score a
            state.
    """

    def __init__(
        self, backbone: Backbone, head: nn.Module, *, language: LanguageHead | None = None, pooling: Pooling = LAST
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head.float()
        self.language = language
        self.pooling = pooling
        self.voice: ResponseGenerator | None = None
        check_scores(self.head, backbone.hidden_size)
        if is_generative(head) and pooling != LAST:
            raise ModelError(
                f"a generative head reads where its text ends, and model.pooling is {pooling.name}. "
                "Set model.pooling=last."
            )

    def forward(self, batch: TreeBatch, *, cache: Cache | None = None) -> Tensor:
        """Scores, shape `(B,)`, in float32 whatever the backbone's precision; `cache` as the backbone takes it."""
        return self._scores(self.pooled(batch, cache=cache))

    def pooled(self, batch: TreeBatch, *, cache: Cache | None = None) -> Tensor:
        """What the head reads, shape `(B, D)`: states that the batch brings, or what backbone and `pooling` make of its
        rows, in the backbone's precision."""
        if batch.pooled is not None:
            return batch.pooled
        states: Tensor = self.backbone(batch, pooling=self.pooling, cache=cache)
        return states

    def outputs(self, batch: TreeBatch) -> Outputs:
        """What a training step needs; the same scores as `forward` gives."""
        if self.language is None:
            return Outputs((self(batch),))
        head: Any = self.head
        scores, language = [], None
        if len(batch.written):
            hidden = self.backbone.hidden_states(batch)
            language = self._language_loss(hidden, batch)
            if head.ranks:
                scores.append(self._scores(self.pooling(hidden, batch)))
        if head.ranks_own:
            assert self.voice is not None
            scores.append(self(head.finished(self.voice.counting(), self, unwritten(batch), samples=1)[0]))
        return Outputs(tuple(scores), language)

    def _language_loss(self, hidden: Tensor, batch: TreeBatch) -> Tensor:
        assert self.language is not None
        rows, columns = batch.written.unbind(1)
        told = batch.input_ids[rows, columns]
        before = hidden[rows, columns - 1]
        return self.language.loss(self.backbone.transformer, before, told, batch.written_weight)

    def judged(self, batch: TreeBatch, *, tally: Counter[str] | None = None) -> Tensor:
        """Scores, shape `(K,)`, of responses: those of a generative head come of what it writes itself.

        Args:
            tally: what is written is counted in it; see `ResponseGenerator`.
        """
        if self.voice is None:
            scores: Tensor = self(batch)
            return scores
        head: Any = self.head
        with_features = self.backbone.vision.encoded(self.backbone.transformer, batch)
        judged: Tensor = head.judge(self.voice.counting(tally), self, with_features)
        return judged

    def _scores(self, pooled: Tensor) -> Tensor:
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


def check_scores(head: nn.Module, hidden_size: int) -> None:
    """Runs a head on two made states; one that scores by what it writes alone has no score of a state.

    Raises:
        ModelError: it does not give one score for each.
    """
    if isinstance(head, GenerativeHead) and not (head.ranks or head.ranks_own):
        return
    name = type(head).__name__
    device = next((parameter.device for parameter in head.parameters()), torch.device("cpu"))
    training = head.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            scores: Any = head.eval()(torch.ones(2, hidden_size, device=device))
    except Exception as error:  # of whatever kind its author raises, assertions among them
        said = str(error) or type(error).__name__
        raise ModelError(f"head '{name}' fails on two hidden states of {hidden_size} numbers each: {said}") from error
    finally:
        head.train(training)
    if not isinstance(scores, Tensor) or scores.shape != (2,) or not scores.is_floating_point():
        what = f"{scores.dtype} of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise ModelError(
            f"head '{name}' gives {what} for two hidden states; it must give one score for each: floating point "
            "numbers of shape (2,). A last axis of one goes with `.squeeze(-1)`."
        )


def learns_language(recipe: ModelRecipe) -> bool:
    """Whether a language head's own weight is trained: with the language model's."""
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
    """Counts the weights of a head on torch's meta device, before memory is taken for them.

    Raises:
        ModelError: with the gradient and the two moments of AdamW they are more than this machine has memory.
    """
    try:
        with torch.device("meta"):
            head = make(node, "heads", hidden_size)
    except (RuntimeError, NotImplementedError):  # a head of the user's own that needs numbers when it is made
        return
    weights = sum(parameter.numel() for parameter in head.parameters())
    needed, there = 4 * 4 * weights, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ModelError(
            f"head '{node.get('_target_')}' has {weights:,} weights; to train them takes {needed / 2**30:,.0f} GiB, "
            f"and this machine has {there / 2**30:,.0f} GiB. Give it fewer layers or a smaller width."
        )


def build_model(recipe: ModelRecipe, *, path: str, seed: int, backbone: Backbone | None = None) -> RewardModel:
    """The model of a recipe, ready to be trained.

    Args:
        recipe: section `model`.
        path: hub id or folder of the backbone.
        seed: of the head's and the adapters' first weights.
        backbone: the recipe's, where it is loaded already; it must be as it was loaded.

    Raises:
        ModelError: the checkpoint cannot be loaded, lacks what the head needs, or nothing of it is trained.
    """
    settings = recipe.backbone
    backbone = backbone or _backbone(settings, path=path)
    with torch.random.fork_rng(devices=[]):
        check_head_size(recipe.head, hidden_size=backbone.hidden_size)
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
    language = None
    if is_generative(head):
        dtype = getattr(torch, settings.dtype)
        embedding: Any = backbone.transformer.get_input_embeddings()
        language = load_language_head(
            path,
            backbone.transformer.config,
            embedding=embedding.weight,
            revision=settings.revision,
            dtype=dtype,
        )
        check_language_head(backbone, language)
        language.requires_grad_(learns_language(recipe))
    model = RewardModel(backbone, head, language=language, pooling=Pooling(recipe.pooling))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(
            f"nothing would be trained: model.backbone.freeze is {settings.freeze}, and head "
            f"'{recipe.head.get('_target_')}' has no weights of its own. Freeze less, or give model.lora"
        )
    return model.train()
