"""The language head of a backbone, for heads that speak: hidden states to the next token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.hub import cached_file

from basereward.errors import ModelError

WEIGHT = "lm_head.weight"
AT_ONCE = 1024  # tokens whose logits are made together; of Qwen's vocabulary they take 0.6 GB


class LanguageHead(nn.Module):
    """Hidden states `(..., D)` to logits `(..., V)`.

    Args:
        weight: `(V, D)` of its own; None where the embedding of the tokens is used for it too.
    """

    def __init__(self, weight: Tensor | None = None) -> None:
        super().__init__()
        self.weight = None if weight is None else nn.Parameter(weight)

    def of(self, transformer: PreTrainedModel) -> Tensor:
        """The weight, `(V, D)`."""
        if self.weight is not None:
            return self.weight
        embedding: Any = transformer.get_input_embeddings()
        shared: Tensor = embedding.weight
        return shared

    def logits(self, transformer: PreTrainedModel, hidden: Tensor) -> Tensor:
        weight = self.of(transformer)
        return linear(hidden.to(weight.dtype), weight).float()

    def loss(self, transformer: PreTrainedModel, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum of the cross-entropies of the tokens that follow, a scalar in float32.

        Args:
            hidden: `(W, D)` of the tokens before them.
            targets: `(W,)` token ids.
            weights: `(W,)`.
        """
        pieces = zip(*(torch.split(each, AT_ONCE) for each in (hidden, targets, weights)), strict=True)
        weight = self.of(transformer)
        if len(targets) <= AT_ONCE:
            sums = [_weighted(weight, *piece) for piece in pieces]
        else:  # a backward pass would keep all logits: they are made again, piece by piece
            sums = [checkpoint(_weighted, weight, *piece, use_reentrant=False) for piece in pieces]
        return torch.stack(sums).sum() if sums else hidden.float().sum() * 0.0


def _weighted(weight: Tensor, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    logits = linear(hidden.to(weight.dtype), weight).float()
    return (weights * cross_entropy(logits, targets, reduction="none")).sum()


def load_language_head(
    path: str | Path, config: PreTrainedConfig, *, revision: str | None = None, dtype: torch.dtype = torch.float32
) -> LanguageHead:
    """The language head of a checkpoint; nothing else of it is read.

    Raises:
        ModelError: the checkpoint has none, and its configuration does not say that it shares the embedding's weight.
    """
    if config.tie_word_embeddings:
        return LanguageHead()
    file = _file_of(str(path), revision=revision)
    if file is not None:
        with safe_open(file, framework="pt") as weights:
            if WEIGHT in weights.keys():  # noqa: SIM118 - no mapping
                return LanguageHead(weights.get_tensor(WEIGHT).to(dtype))
    raise ModelError(
        f"the checkpoint at '{path}' has no {WEIGHT}, so a head that speaks cannot use it. Give the whole causal or "
        "image-text-to-text model, or a scalar head (linear, mlp)."
    )


def _file_of(path: str, *, revision: str | None) -> str | None:
    """The safetensors file that holds the weight."""
    options: dict[str, Any] = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
    index = cached_file(path, "model.safetensors.index.json", **options)
    if index is not None:
        name = json.loads(Path(index).read_text())["weight_map"].get(WEIGHT)
        return None if name is None else cached_file(path, name, revision=revision)
    return cached_file(path, "model.safetensors", **options)
