"""The language head of a backbone, for heads that speak: hidden states to the next token."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.hub import cached_file

from basereward.errors import ModelError
from basereward.io.limits import read_json_object

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
    path: str | Path,
    config: PreTrainedConfig,
    *,
    embedding: Tensor | None = None,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> LanguageHead:
    """The language head of a checkpoint; nothing else of it is read.

    A weight in the checkpoint's files is used whatever the configuration says of it, as transformers does. Where there
    is none, or it is the embedding's and the configuration ties the two, the head shares the embedding's.

    Args:
        embedding: `(V, D)`, the backbone's, to tell whether a weight in the files is another one.

    Raises:
        ModelError: the checkpoint has no such weight, and its configuration does not say that it shares the
            embedding's; or its files cannot be read.
    """
    weight = _find_weight(str(path), revision=revision)
    if weight is not None:
        own = weight.to(dtype)
        shared = config.tie_word_embeddings and embedding is not None and _equal(own, embedding)
        return LanguageHead() if shared else LanguageHead(own)
    if config.tie_word_embeddings:
        return LanguageHead()
    raise ModelError(
        f"the checkpoint at '{path}' has no {WEIGHT}, so a head that speaks cannot use it. Give the whole causal or "
        "image-text-to-text model, or a scalar head (linear, mlp)."
    )


def holds_language_head(path: str | Path, config: PreTrainedConfig, *, revision: str | None = None) -> bool:
    """Whether a checkpoint has a language head apart from the embedding, by its files where they are on this machine,
    else by its configuration. No weight is read, and nothing is downloaded."""
    found = _find_file(str(path), revision=revision, local_files_only=True)
    return found is not None or not config.tie_word_embeddings


def _equal(weight: Tensor, embedding: Tensor) -> bool:
    return weight.shape == embedding.shape and bool(torch.equal(weight, embedding.detach().to("cpu", weight.dtype)))


def _find_weight(path: str, *, revision: str | None) -> Tensor | None:
    found = _find_file(path, revision=revision)
    if found is None:
        return None
    file, name = found
    with safe_open(file, framework="pt") as weights:
        weight: Tensor = weights.get_tensor(name)
    return weight


def _find_file(path: str, *, revision: str | None, **where: Any) -> tuple[str, str] | None:
    """The safetensors file that holds the weight, and its name there."""
    options: dict[str, Any] = {"revision": revision, "_raise_exceptions_for_missing_entries": False, **where}
    index = cached_file(path, "model.safetensors.index.json", **options)
    if index is not None:
        listed: dict[str, Any] = read_json_object(Path(index)).get("weight_map", {})
        name = _name_among(listed)
        file = None if name is None else cached_file(path, str(listed[name]), **options)
        return None if file is None or name is None else (file, name)
    file = cached_file(path, "model.safetensors", **options)
    if file is None:
        return None
    try:
        with safe_open(file, framework="pt") as weights:
            name = _name_among(weights.keys())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"'{file}' cannot be read: {error}. Copy it again.") from error
    return None if name is None else (file, name)


def _name_among(names: Iterable[str]) -> str | None:
    """What the weight is called: older checkpoints of models that read images have the language model's name before."""
    return next((name for name in names if name == WEIGHT or name.endswith(f".{WEIGHT}")), None)
