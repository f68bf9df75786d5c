"""Which hidden states of a branch the head reads; the pooled state is their mean.

Shapes: B branches, N tokens that are read in all branches, R rows of T tokens, D channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from basereward.data.batching.tree_batch import TreeBatch
from basereward.recipe.schema import PoolingName


def _last(size: int) -> range:
    return range(size - 1, size)


def _last_text(size: int) -> range:
    return range(max(size - 2, 0), max(size - 1, 1))


READS: dict[PoolingName, Callable[[int], range]] = {"last": _last, "last_text": _last_text, "mean": range}


@dataclass(frozen=True, slots=True)
class Pooling:
    """Selects the tokens of a branch whose hidden states the head reads.

    Args:
        name: `last`: the end-of-turn token, like the last token that is not padding in ms-swift and the default of YOJO
            (arXiv 2604.10966). `last_text`: the token before it, the last of the response's own text. `mean`: all
            tokens including the end-of-turn token, like YOJO's `response_mean`. For an empty response all three use
            the end-of-turn token.
    """

    name: PoolingName = "last"

    def read(self, size: int) -> range:
        """The tokens that are read in a branch of `size` tokens, counted from its first.

        >>> [list(Pooling(name).read(3)) for name in READS], Pooling("last_text").read(1)
        ([[2], [1], [0, 1, 2]], range(0, 1))
        """
        return READS[self.name](size)

    @property
    def whole(self) -> bool:
        """Whether all tokens of a branch are read; otherwise one token is read.

        >>> Pooling("mean").whole, Pooling("last").whole
        (True, False)
        """
        return self.name == "mean"

    def places(self, batch: TreeBatch) -> Tensor:
        """Row and column of every token that is read, `(N, 2)`, branch after branch."""
        if self.name == "last":
            return batch.rows.ends
        branches: list[int] = []
        # Counted from the last token of the branch, whose place the batch has in both layouts.
        steps_back: list[int] = []
        for index, size in enumerate(_branch_sizes(batch)):
            tokens = self.read(size)
            branches += [index] * len(tokens)
            steps_back += [size - 1 - token for token in tokens]
        # Built on the CPU and moved once: indexing with Python numbers would wait for the GPU at every token.
        offsets = torch.tensor([[0] * len(steps_back), steps_back]).T
        device = batch.rows.ends.device
        places: Tensor = batch.rows.ends[torch.tensor(branches).to(device)] - offsets.to(device)
        return places

    def __call__(self, hidden: Tensor, batch: TreeBatch) -> Tensor:
        """Pools hidden states `(R, T, D)` to `(B, D)` in their own precision; a mean is computed in float32."""
        rows, columns = self.places(batch).unbind(1)
        states = hidden[rows, columns]
        if not self.whole:
            return states
        # A mean of thousands of bfloat16 numbers would lose most of their digits.
        parts = torch.split(states.float(), _branch_sizes(batch))
        return torch.stack([part.mean(0) for part in parts]).to(hidden.dtype)


def _branch_sizes(batch: TreeBatch) -> list[int]:
    """The number of tokens of every branch."""
    sizes: list[int] = []
    for _, *branches in batch.rows.trees:
        sizes += branches
    return sizes


LAST = Pooling()
