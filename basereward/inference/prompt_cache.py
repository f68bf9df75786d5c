"""Scores responses to one prompt over several calls, as in reinforcement learning; the prompt is encoded once.

Keys and values of the prompt's tokens, including those of images, are cached. Every call computes only the tokens of
its own responses. Shapes: P tokens of the prefix, S of the branches of a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from basereward.data.batching.collate import collate
from basereward.data.batching.packing import RowSize, pack_in_order
from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.encoding.encoder import EncodedGroup, Encoder
from basereward.data.schema.group import Group
from basereward.data.schema.image_references import ImageReference
from basereward.data.schema.rows import RowFormat
from basereward.errors import check_several
from basereward.model.reward_model import RewardModel

# Largest number of tokens of the branches of a forward pass. The mask of one layer has S * (P + S) bytes.
MAX_BRANCH_TOKENS = 2048


class _Prefix(DynamicLayer):
    """Keys and values of one layer. The first update is stored; later ones see it and are not stored.

    So no call sees the responses of another.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Stores the first keys and values; puts the stored ones before all later ones."""
        if self.keys is None or self.values is None:
            self.keys, self.values, self.is_initialized = key_states, value_states, True
            return key_states, value_states
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


class PassRunner(Protocol):
    """The part of `Scorer` that a prompt cache uses; `scorer.py` imports this file, so it cannot be imported here."""

    encoder: Encoder
    model: RewardModel

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        ...

    def precision(self) -> AbstractContextManager[object]:
        """The autocast context of a forward pass."""
        ...

    def check_finite(self, scores: Sequence[float], *, name: str) -> None:
        """Checks scores.

        Raises:
            ModelError: a score is NaN or infinite.
        """
        ...


class PromptScorer:
    """Scores responses to one prompt, in any number of calls.

    The cache belongs to the weights at construction. After the weights have changed, build a new `PromptScorer`.

    Args:
        scorer: its model encodes the prompt at construction.
        group: the encoded prompt; its branches are ignored.

    Raises:
        ModelError: the backbone has windowed attention.
    """

    def __init__(self, scorer: PassRunner, group: EncodedGroup) -> None:
        self._scorer = scorer
        # The cache replaces the pixels, which would be kept as long.
        self._group = replace(group, pixels=None, cached_features=())
        self._cache = Cache(layer_class_to_replicate=_Prefix)
        # Images of the group's own responses are left out.
        self._fill_cache(replace(group, branch_images=()))

    @torch.inference_mode()
    def _fill_cache(self, group: EncodedGroup) -> None:
        """Runs the backbone on the prompt alone, which stores its keys and values."""
        tree = collate([group], layout="tree", pad_id=self._scorer.encoder.pad_id)
        prefix = len(group.prefix)
        batch = _columns(tree, slice(0, prefix), trees=[(prefix,)])
        with self._scorer.precision():
            self._scorer.model.backbone.hidden_states(batch.to(self._scorer.device), cache=self._cache)

    @property
    def nbytes(self) -> int:
        """Bytes of the cached keys and values of all layers."""
        size = 0
        for layer in self._cache.layers:
            if isinstance(layer, _Prefix) and layer.keys is not None and layer.values is not None:
                size += layer.keys.nbytes + layer.values.nbytes
        return size

    def score(
        self, responses: Sequence[str], *, response_images: Sequence[Sequence[ImageReference]] = ()
    ) -> list[float]:
        """One score for each response, equal to `Scorer.score` up to about 1e-6 in float32.

        Args:
            responses, response_images: as in `Scorer.score`.

        Raises:
            DataError: `responses` is not a list or is empty, a response is not a text or has half of a surrogate pair,
                it is too long with the prompt, or an image cannot be opened.
            ModelError: a score is NaN or infinite.
        """
        check_several(responses, name="responses", of="texts")
        check_several(response_images, name="response_images", of="lists of images")
        # The checks of rows need a prompt; the real one is encoded already.
        row = {"prompt": "?", "responses": list(responses), "response_images": list(response_images) or None}
        return self.score_group(RowFormat(for_training=False).group(row, source="score", row_id="0", where="score()"))

    def score_group(self, group: Group) -> list[float]:
        """As `score`, for the responses of a group, whose own prompt is not read."""
        # Images of the responses come after the prompt of this scorer, whose own pixels the cache replaces.
        encoded = self._scorer.encoder.with_responses(self._group, group)
        scores: list[float] = []
        branches = range(len(encoded.branches))
        passes = pack_in_order(
            branches, budget=MAX_BRANCH_TOKENS, size_of=lambda number: RowSize(len(encoded.branches[number]))
        )
        for branches_of_pass in passes:
            scores += self._score(encoded, branches_of_pass)
        self._scorer.check_finite(scores, name=self._group.id)
        return scores

    @torch.inference_mode()
    def _score(self, encoded: EncodedGroup, branches: Sequence[int]) -> list[float]:
        """Scores the responses of one forward pass, by the indices of their branches."""
        group = replace(
            encoded,
            branches=tuple(encoded.branches[number] for number in branches),
            branch_images=tuple(encoded.branch_images[number] for number in branches) if encoded.branch_images else (),
            preferences=(),
        )
        tree = collate([group], layout="tree", pad_id=self._scorer.encoder.pad_id)
        prefix = len(group.prefix)
        batch = _columns(tree, slice(prefix, None), trees=tree.rows.trees)
        with self._scorer.precision():
            scores: list[float] = self._scorer.model(batch.to(self._scorer.device), cache=self._cache).tolist()
        return scores


def _columns(batch: TreeBatch, kept: slice, *, trees: list[tuple[int, ...]]) -> TreeBatch:
    """Some columns of a batch with one tree row, which hold all its images."""
    rows = replace(
        batch.rows,
        input_ids=batch.rows.input_ids[:, kept],
        position_ids=batch.rows.position_ids[..., kept],
        trees=trees,
        group=batch.rows.group[:, kept],
        branch=batch.rows.branch[:, kept],
        ends=batch.rows.ends - torch.tensor([0, kept.start]),
    )
    tokens = batch.images.tokens
    images = batch.images if tokens is None else replace(batch.images, tokens=tokens - kept.start)
    return replace(batch, rows=rows, images=images)
