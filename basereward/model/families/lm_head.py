"""The language-model head of a backbone, for generative heads: hidden states to logits of the next token."""

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

from basereward.errors import ModelError, sentence
from basereward.io.limits import read_json_object

WEIGHT = "lm_head.weight"
# Tokens whose logits are computed together; for Qwen's vocabulary of 152k they take 0.6 GB in float32.
CHUNK_TOKENS = 1024


class LanguageHead(nn.Module):
    """Hidden states `(..., D)` to logits `(..., V)`.

    Args:
        weight: `(V, D)`; None if the head shares the weight of the token embedding.

    >>> LanguageHead(torch.zeros(10, 4)).weight.shape
    torch.Size([10, 4])
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
        """Logits `(..., V)` in float32 of the tokens that follow hidden states `(..., D)`."""
        # The product is in the precision of the weight, as in transformers, and the result is cast.
        weight = self.of(transformer)
        return linear(hidden.to(weight.dtype), weight).float()

    def loss(self, transformer: PreTrainedModel, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum of cross-entropies of the next tokens, a scalar in float32.

        Args:
            transformer: has the embedding, if its weight is shared.
            hidden: `(W, D)`, states of the tokens before the targets.
            targets: `(W,)` token ids.
            weights: `(W,)` factors of the cross-entropies.
        """
        pieces = zip(*(torch.split(values, CHUNK_TOKENS) for values in (hidden, targets, weights)), strict=True)
        weight = self.of(transformer)
        if len(targets) <= CHUNK_TOKENS:
            sums = [_weighted(weight, *piece) for piece in pieces]
        else:
            # Autograd would store the logits of all pieces for the backward pass, which computes them again instead.
            sums = [checkpoint(_weighted, weight, *piece, use_reentrant=False) for piece in pieces]
        # Without targets the loss is zero, and still connected to the graph, so that its gradient exists.
        return torch.stack(sums).sum() if sums else hidden.float().sum() * 0.0


def _weighted(weight: Tensor, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of cross-entropies of some tokens."""
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
    """Loads the language-model head of a checkpoint; no other weight is read.

    As in transformers, a weight in the files is used whatever the configuration says. The head shares the weight of the
    embedding if the configuration ties the two and the files have no weight, or an equal one.

    Args:
        path: hub id or folder.
        config: of the checkpoint.
        embedding: `(V, D)` of the backbone, to compare with a weight in the files.
        revision: branch, tag or commit of the hub repository.
        dtype: of the weight.

    Raises:
        ModelError: the files have no weight and the configuration does not tie it to the embedding; the weight has
            another shape than the embedding; or the files cannot be read.
    """
    weight = _find_weight(str(path), revision=revision)
    if weight is not None:
        if embedding is not None and weight.shape != embedding.shape:
            raise ModelError(
                f"'{path}': {WEIGHT} has the shape {tuple(weight.shape)}, and the token embedding has "
                f"{tuple(embedding.shape)}; the checkpoint is damaged or incomplete. Copy it again."
            )
        own = weight.to(dtype)
        shared = config.tie_word_embeddings and embedding is not None and _equal(own, embedding)
        return LanguageHead() if shared else LanguageHead(own)
    if config.tie_word_embeddings:
        return LanguageHead()
    raise ModelError(
        f"the checkpoint at '{path}' has no {WEIGHT}, which a generative head needs. Give the complete causal or "
        "image-text-to-text model, or use a scalar head (linear, mlp)."
    )


def holds_language_head(path: str | Path, config: PreTrainedConfig, *, revision: str | None = None) -> bool:
    """Whether a checkpoint has a language-model head that is not shared with the embedding.

    The files decide if they are on this machine, otherwise the configuration. No weight is read, and nothing is
    downloaded.

    Args:
        path: hub id or folder.
        config: of the checkpoint.
        revision: branch, tag or commit of the hub repository.
    """
    file = _find_file(str(path), revision=revision, local_files_only=True)
    return file is not None or not config.tie_word_embeddings


def _equal(weight: Tensor, embedding: Tensor) -> bool:
    # A checkpoint may store a tied weight a second time; comparing its values decides whether it is the same.
    return weight.shape == embedding.shape and bool(torch.equal(weight, embedding.detach().to("cpu", weight.dtype)))


def _find_weight(path: str, *, revision: str | None) -> Tensor | None:
    location = _find_file(path, revision=revision)
    if location is None:
        return None
    file, name = location
    with safe_open(file, framework="pt") as weights:
        weight: Tensor = weights.get_tensor(name)
    return weight


def _find_file(path: str, *, revision: str | None, **where: Any) -> tuple[str, str] | None:
    """The safetensors file that holds the weight, and the name of the weight in it."""
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
        raise ModelError(f"'{file}' cannot be read: {sentence(error)} Copy it again.") from error
    return None if name is None else (file, name)


def _name_among(names: Iterable[str]) -> str | None:
    """The name of the weight: older checkpoints of vision models have a prefix before it.

    >>> _name_among(["model.norm.weight", "language_model.lm_head.weight"])
    'language_model.lm_head.weight'
    """
    return next((name for name in names if name == WEIGHT or name.endswith(f".{WEIGHT}")), None)
