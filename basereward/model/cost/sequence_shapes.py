"""The input of a forward pass in numbers: trees of tokens and their images."""

from __future__ import annotations

from dataclasses import dataclass

from basereward.data.batching.tree_batch import Layout, TreeBatch
from basereward.data.encoding.encoder import EncodedGroup
from basereward.data.images.image_dedup import deduplicate_images, placed_images
from basereward.data.images.vision_features import Grid
from basereward.model.pooling import LAST, Pooling


@dataclass(frozen=True, slots=True)
class SequenceShape:
    """A tree in numbers. A plain sequence is a tree with one branch.

    Attributes:
        prefix: number of its tokens.
        branches: number of tokens of each branch.
        images: grids of patches.
        written: target tokens of a generative head.

    >>> SequenceShape(2, (1, 2)).tokens
    5
    """

    prefix: int
    branches: tuple[int, ...]
    images: tuple[Grid, ...] = ()
    written: int = 0

    @property
    def tokens(self) -> int:
        """The number of tokens of the tree."""
        return self.prefix + sum(self.branches)

    @property
    def pairs(self) -> int:
        """The number of pairs of a query and a key that it sees; every token sees itself.

        >>> SequenceShape(2, (1, 2)).pairs  # 3 in the prefix, 2 + 1, 4 + 3
        13
        """
        own = (self.prefix, *self.branches)
        return sum(n * (n + 1) // 2 for n in own) + self.prefix * sum(self.branches)

    def pooled(self, pooling: Pooling = LAST) -> int:
        """The number of pooled tokens.

        >>> SequenceShape(2, (1, 2)).pooled(Pooling("mean"))
        3
        """
        return sum(len(pooling.read(branch)) for branch in self.branches)

    def pairs_of_pooled(self, pooling: Pooling = LAST) -> int:
        """The number of pairs whose query is a pooled token.

        >>> shape = SequenceShape(2, (1, 2))
        >>> shape.pairs_of_pooled(), shape.pairs_of_pooled(Pooling("mean"))  # 3 + 4, 3 + (3 + 4)
        (7, 10)
        """
        # The pooled tokens of a branch are consecutive, so the sum over them is that of an arithmetic series.
        reads = [pooling.read(branch) for branch in self.branches]
        return sum(len(read) * (2 * self.prefix + 2 + read[0] + read[-1]) // 2 for read in reads)


def batch_shapes(batch: TreeBatch) -> list[SequenceShape]:
    """The trees of a batch, or its plain sequences without padding.

    All images and targets are assigned to the first shape: the tree that they belong to changes no count.
    """
    images = batch.images.grids
    written = len(batch.targets.positions)
    return [
        SequenceShape(prefix, tuple(branches), *(((), 0) if i else (images, written)))
        for i, (prefix, *branches) in enumerate(batch.rows.trees)
    ]


def group_shapes(group: EncodedGroup, *, layout: Layout) -> list[SequenceShape]:
    """The tree of a group, or the plain sequence of each of its responses.

    The first shape has all targets, and all images that must be encoded, each once: those with cached features cost
    nothing.
    """
    branches = tuple(len(branch) for branch in group.branches)
    images = deduplicate_images([group], [placed_images(group, "tree")]).grids
    bundles = [branches] if layout == "tree" else [(branch,) for branch in branches]
    written = sum(target.num_target_tokens for target in group.branch_targets)
    return [
        SequenceShape(len(group.prefix), bundle, *(((), 0) if i else (images, written)))
        for i, bundle in enumerate(bundles)
    ]
