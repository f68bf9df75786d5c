"""Decides in which form a model can be exported, or refuses it with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedConfig, PreTrainedModel

from basereward.errors import ModelError
from basereward.inference.reward_scorer import RewardScorer
from basereward.inference.scorer import Scorer
from basereward.model.heads.contracts import is_generative
from basereward.model.heads.linear import Linear
from basereward.model.heads.mlp import ACTIVATIONS, MLP

ExportForm: TypeAlias = Literal["sequence_classification", "own_code"]
"""`sequence_classification`: a class of transformers; `own_code`: a modeling file in the folder."""


@dataclass(frozen=True, slots=True)
class HeadLayers:
    """The linear layers of a head, without dropout, which scoring does not use.

    Attributes:
        sizes: widths: of the hidden states, of the layers between, and 1.
        activation: between the layers; a key of `ACTIVATIONS`.
        bias: whether the layers have one.
        weights: of the layers in order, by the names that they have in `ScoreLayers`.
    """

    sizes: list[int]
    activation: str
    bias: bool
    weights: Mapping[str, Tensor]

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `ScoreLayers`."""
        return {"sizes": self.sizes, "activation": self.activation, "bias": self.bias}


def head_layers(head: nn.Module) -> HeadLayers:
    """The layers of a head of the types `Linear` and `MLP`.

    Raises:
        ModelError: it is another head.

    >>> head_layers(MLP(8, layers=2, width=4, activation="relu", dropout=0.1)).settings
    {'sizes': [8, 4, 1], 'activation': 'relu', 'bias': True}
    >>> list(head_layers(Linear(8, bias=False)).weights)
    ['layers.0.weight']
    """
    # Not subclasses, which may compute something else.
    if type(head) not in (Linear, MLP):
        raise ModelError(
            f"the head is of type {type(head).__module__}.{type(head).__qualname__}, and only the heads linear and mlp "
            "have a form that other software opens. Use `basereward serve`"
        )
    layers = [module for module in head.modules() if isinstance(module, nn.Linear)]
    weights: dict[str, Tensor] = {}
    for index, layer in enumerate(layers):
        for name, weight in layer.state_dict().items():
            weights[f"layers.{index}.{name}"] = weight
    activation = next(
        (name for name, kind in ACTIVATIONS.items() for module in head.modules() if type(module) is kind), "none"
    )
    sizes = [layers[0].in_features, *(layer.out_features for layer in layers)]
    return HeadLayers(sizes, activation, layers[0].bias is not None, weights)


def check_exportable(model: RewardScorer) -> Scorer:
    """Checks that a model can be exported.

    Returns:
        The model.

    Raises:
        ModelError: it cannot; the message has the reason.
    """
    if not isinstance(model, Scorer):
        raise ModelError(
            "an ensemble has no form that other software opens: it combines the scores of several models. Export its "
            "members one by one, make a soup of them, or use `basereward serve`"
        )
    if is_generative(model.model.head):
        raise ModelError(
            f"the head is {type(model.model.head).__name__}, which generates text before it scores, and a class of "
            "transformers scores in one pass. Use `basereward serve`"
        )
    head_layers(model.model.head)
    if (pooling := model.model.pooling.name) != "last":
        raise ModelError(
            f"the model was trained with model.pooling={pooling}, which needs the border between prompt and answer. "
            "The input of exported models is one sequence without it. Train with model.pooling=last, or use "
            "`basereward serve`"
        )
    return model


def choose_form(scorer: Scorer) -> ExportForm:
    """The form in which a model is exported: transformers' own class where it computes the same score."""
    layers = head_layers(scorer.model.head)
    if scorer.model.backbone.reads_images or len(layers.sizes) > 2 or layers.bias:
        return "own_code"
    return (
        "own_code"
        if classification_model(scorer.model.backbone.transformer.config) is None
        else ("sequence_classification")
    )


def classification_model(config: PreTrainedConfig) -> PreTrainedModel | None:
    """transformers' sequence classification for a configuration, on the meta device; None if there is none.

    Args:
        config: of a transformer.
    """
    config = plain_config(config)
    config.num_labels = 1
    kind: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if kind is None:
        return None
    with torch.device("meta"):
        model: PreTrainedModel = kind(config)
    # Some classes have dense layers, dropout or a pooler of their own before the score.
    outside = [name for name in model.state_dict() if not name.startswith(f"{model.base_model_prefix}.")]
    return model if outside == ["score.weight"] else None


def plain_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy of a configuration as it is in a file, without the attention that this process uses."""
    copied: PreTrainedConfig = type(config).from_dict(config.to_dict())
    return copied
