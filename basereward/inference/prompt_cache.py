"""Answers to one prompt that come in several calls, as in reinforcement learning: the prompt is read once.

The keys and values of the prompt's tokens, its images' among them, are kept; every call runs the tokens of its own
answers only. Shapes: P tokens of the prefix, S of the branches of a pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from basereward.data.batching.tree_batch import TreeBatch, collate
from basereward.data.encoding.encoder import EncodedGroup, Encoder
from basereward.data.schema.rows import RowFormat
from basereward.data.schema.text import check_texts
from basereward.errors import check_several
from basereward.model.reward_model import RewardModel

AT_ONCE = 2048  # tokens of answers in a pass; of one layer's mask there are S * (P + S) bytes


class _Prefix(DynamicLayer):
    """Keys and values of one layer: keeps the first that it is given, and lets those that come later see them without
    keeping any, so that no call sees another's answers."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.keys is None or self.values is None:
            self.keys, self.values, self.is_initialized = key_states, value_states, True
            return key_states, value_states
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


class PassRunner(Protocol):
    """What a prompt cache needs of a scorer: its model, and how a forward pass is run and checked."""

    encoder: Encoder
    model: RewardModel

    @property
    def device(self) -> torch.device: ...

    def precision(self) -> AbstractContextManager[object]:
        """The autocast of a forward pass."""
        ...

    def check_finite(self, scores: Sequence[float], *, name: str) -> None:
        """
        Raises:
            ModelError: a score is NaN or infinite.
        """
        ...


class PromptScorer:
    """Scores answers to one prompt, in as many calls as they come.

    What it keeps belongs to the weights at its making: make another when they have changed.

    Args:
        scorer: whose model reads the prompt here, once.
        group: the prompt, encoded; its branches are not read.

    Raises:
        ModelError: the backbone attends in windows.
    """

    def __init__(self, scorer: PassRunner, group: EncodedGroup) -> None:
        self._scorer = scorer
        self._group = replace(group, pixels=None, images_thw=None)
        self._cache = Cache(layer_class_to_replicate=_Prefix)
        self._read(group)

    @torch.inference_mode()
    def _read(self, group: EncodedGroup) -> None:
        whole = collate([group], layout="tree", pad_id=self._scorer.encoder.pad_id)
        prefix = len(group.prefix)
        batch = _columns(whole, slice(0, prefix), trees=[(prefix,)])
        with self._scorer.precision():
            self._scorer.model.backbone.hidden_states(batch.to(self._scorer.device), cache=self._cache)

    def score(self, responses: Sequence[str]) -> list[float]:
        """One score a response, as `Scorer.score` of prompt and responses gives them, to some 1e-6 in float32.

        Raises:
            DataError: `responses` is no list, there is no response, one is no text or holds half of a surrogate
                pair, or one is too long with the prompt.
            ModelError: a score is NaN or infinite.
        """
        check_several(responses, name="responses", of="texts")
        row = {"prompt": "?", "responses": list(responses)}
        checked = RowFormat(for_training=False).group(row, source="score", row_id="0", where="score()")
        encoder = self._scorer.encoder
        check_texts(checked.responses)
        branches = [encoder.branch(response) for response in checked.responses]
        encoder.check_length(len(self._group.prefix) + max(map(len, branches)))
        scores = [score for some in _shared(branches) for score in self._score(some)]
        self._scorer.check_finite(scores, name=self._group.id)
        return scores

    @torch.inference_mode()
    def _score(self, branches: Sequence[Tensor]) -> list[float]:
        group = replace(self._group, branches=tuple(branches), preferences=())
        whole = collate([group], layout="tree", pad_id=self._scorer.encoder.pad_id)
        prefix = len(group.prefix)
        batch = _columns(whole, slice(prefix, None), trees=whole.trees)
        with self._scorer.precision():
            scores: list[float] = self._scorer.model(batch.to(self._scorer.device), cache=self._cache).tolist()
        return scores


def _columns(batch: TreeBatch, kept: slice, *, trees: list[tuple[int, ...]]) -> TreeBatch:
    """Part of a batch of one tree row."""
    return replace(
        batch,
        input_ids=batch.input_ids[:, kept],
        position_ids=batch.position_ids[..., kept],
        trees=trees,
        group=batch.group[:, kept],
        branch=batch.branch[:, kept],
        ends=batch.ends - torch.tensor([0, kept.start]),
    )


def _shared(branches: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Branches, in order, by pass."""
    together: list[Tensor] = []
    for branch in branches:
        if together and sum(map(len, together)) + len(branch) > AT_ONCE:
            yield together
            together = []
        together.append(branch)
    if together:
        yield together
