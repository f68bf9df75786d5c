"""Which hidden states of a branch the head reads; their mean is the pooled state.

Shapes: B branches, N tokens of theirs that are read, R rows of T tokens, D channels.
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
    """What of a branch is read.

    Args:
        name: `last` is its last token, the end of turn, as ms-swift scores the last token that is no padding and YOJO
            (arXiv 2604.10966) does by default; `last_text` the token before it, the last of the response's own; `mean`
            all of its tokens, the end of turn among them, as YOJO's `response_mean`. Of an empty response, which is its
            end of turn alone, all three read that.
    """

    name: PoolingName = "last"

    def read(self, size: int) -> range:
        """The tokens that are read of a branch of `size` tokens, counted from its first.

        >>> [list(Pooling(name).read(3)) for name in READS], Pooling("last_text").read(1)
        ([[2], [1], [0, 1, 2]], range(0, 1))
        """
        return READS[self.name](size)

    @property
    def whole(self) -> bool:
        """Whether all tokens of a branch are read; else it is one."""
        return self.name == "mean"

    def places(self, batch: TreeBatch) -> Tensor:
        """Row and column of every token that is read, `(N, 2)`, branch after branch."""
        if self.name == "last":
            return batch.ends
        sizes = _sizes(batch)
        branch = [index for index, size in enumerate(sizes) for _ in self.read(size)]
        back = [size - 1 - token for size in sizes for token in self.read(size)]
        moved = torch.tensor([[0] * len(back), back]).T
        device = batch.ends.device
        places: Tensor = batch.ends[torch.tensor(branch).to(device)] - moved.to(device)
        return places

    def __call__(self, hidden: Tensor, batch: TreeBatch) -> Tensor:
        """Hidden states `(R, T, D)` to pooled ones `(B, D)`, in their own precision; a mean is taken in float32."""
        rows, columns = self.places(batch).unbind(1)
        states = hidden[rows, columns]
        if not self.whole:
            return states
        parts = torch.split(states.float(), _sizes(batch))
        return torch.stack([part.mean(0) for part in parts]).to(hidden.dtype)


def _sizes(batch: TreeBatch) -> list[int]:
    """Tokens of every branch."""
    return [size for _, *branches in batch.trees for size in branches]


LAST = Pooling()
