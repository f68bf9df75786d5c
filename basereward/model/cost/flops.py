"""What a training step computes: the multiplications and additions of its matrix products.

Counted is what the step needs, whatever kernel does it:

- A linear layer takes 2 * inputs * outputs a token forward; as much for the gradient of its weight, where that is
  trained; as much for the gradient of its input, where anything that is trained lies below. So a frozen vision tower
  has no backward pass, and nor have the first projections of a language model that is trained by adapters alone.
- Attention takes 4 * heads * head size for every pair of tokens of which one sees the other (its weight, and its
  value), and twice that backward. Blind pairs cost nothing. A prefix of P tokens has P (P + 1) / 2 pairs, a branch of
  L tokens has L P + L (L + 1) / 2; windows of a vision tower see themselves whole.
- Of the last decoder layer the pooled tokens alone need a query, an output and the feed-forward network.
- A head that speaks has the logits of the tokens that it is taught, and then the last layer works for all tokens. What
  it writes itself is not counted.
- Padding, norms, activations, rotary positions and the optimizer are left out, as is common (arXiv 2204.02311,
  appendix B).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.images.vision_features import Grid
from basereward.model.cost.layers import Block, CountedLayers, LinearLayer, Merger, Vision, layers_of
from basereward.model.cost.sequence_shapes import SequenceShape, batch_shapes
from basereward.model.reward_model import RewardModel


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating point operations of matrix products."""

    vision: int = 0  # linear layers of the vision tower and its merger
    language: int = 0  # linear layers of the language model
    attention: int = 0  # of both
    lora: int = 0  # adapters of both
    head: int = 0
    recomputed: int = 0  # what gradient checkpointing does again: no part of the total

    @property
    def total(self) -> int:
        """Useful ones."""
        return self.vision + self.language + self.attention + self.lora + self.head

    def __add__(self, other: Flops) -> Flops:
        return Flops(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


class Counter:
    """Counts for one model; looks at its layers once.

    Args:
        model: with weights or in outline; adapters and frozen parts as they are now.
        pooled_only: whether the last decoder layer works for pooled tokens alone.

    Raises:
        ModelError: the backbone has layers that are not known.
    """

    def __init__(self, model: RewardModel, *, pooled_only: bool = True) -> None:
        self.layers: CountedLayers = layers_of(model)
        self.pooling = model.pooling
        self.pooled_only = pooled_only

    def __call__(self, shapes: Sequence[SequenceShape], *, training: bool = True) -> Flops:
        """The operations of one pass: forward, and backward too when `training`."""
        work = _FlopCount(training)
        grids = [grid for shape in shapes for grid in shape.images]
        if grids and self.layers.vision is not None:
            work.vision(self.layers.vision, grids)
        work.reached |= self.layers.embedding_trained
        tokens, pairs = sum(shape.tokens for shape in shapes), sum(shape.pairs for shape in shapes)
        *blocks, last = self.layers.blocks
        for block in blocks:
            work.block(block, "language", tokens=tokens, pairs=pairs)
        written = sum(shape.written for shape in shapes) if self.layers.logits is not None else 0
        if self.pooled_only and last.restrictable and not written:
            pooled = sum(shape.pooled(self.pooling) for shape in shapes)
            of_pooled = sum(shape.pairs_of_pooled(self.pooling) for shape in shapes)
            work.block(last, "language", tokens=tokens, pairs=of_pooled, pooled=pooled)
        else:
            work.block(last, "language", tokens=tokens, pairs=pairs)
        work.reached |= self.layers.norm_trained
        if self.layers.logits is not None:
            reached = work.reached
            work.linear(self.layers.logits, "language", written)
            work.reached = reached
        for layer in self.layers.head:
            work.linear(layer, "head", sum(len(shape.branches) for shape in shapes))
        return Flops(**work.done)


class _FlopCount:
    """Adds up, layer after layer, and remembers whether anything trained lies below."""

    def __init__(self, training: bool) -> None:
        self.training = training
        self.done = {each.name: 0 for each in fields(Flops)}
        self.reached = False  # by the backward pass
        self._forward = 0

    def linear(self, layer: LinearLayer, kind: str, tokens: int) -> None:
        for down, up in layer.adapters:
            reached = self.reached
            self.linear(down, "lora", tokens)
            self.linear(up, "lora", tokens)
            self.reached = reached
        passes = 1 + self.training * (layer.trained + self.reached)
        once = 2 * layer.inputs * layer.outputs * tokens
        self._forward += once
        self.done[kind] += passes * once
        self.reached |= layer.anything_trained

    def together(self, layers: Iterable[LinearLayer], kind: str, tokens: Sequence[int]) -> None:
        """Layers of one input."""
        below = self.reached
        reached = below
        for layer, count in zip(layers, tokens, strict=True):
            self.reached = below
            self.linear(layer, kind, count)
            reached |= layer.anything_trained
        self.reached = reached

    def attention(self, width: int, pairs: int) -> None:
        once = 4 * width * pairs
        self._forward += once
        self.done["attention"] += (1 + 2 * (self.training and self.reached)) * once

    def block(self, block: Block, kind: str, *, tokens: int, pairs: int, pooled: int | None = None) -> None:
        """`pooled`: tokens that need more than a key and a value; None: all of them."""
        few = tokens if pooled is None else pooled
        before = self._forward
        self.reached |= block.others_trained
        project, *rest = block.stages
        self.together(project, kind, [few if layer.name == "q_proj" else tokens for layer in project])
        self.attention(block.width, pairs)
        for stage in rest:
            self.together(stage, kind, [few] * len(stage))
        if block.checkpointed and self.training and self.reached:
            # Computing again stops when all is there that the backward pass asks for: before the last product, but that
            # of pooled tokens, which are put back to their places afterwards, and one that is multiplied.
            last = block.stages[-1] if pooled is None and not block.scaled else ()
            spared = sum(2 * layer.inputs * layer.outputs * few for layer in last if not layer.adapters)
            self.done["recomputed"] += self._forward - before - spared

    def vision(self, vision: Vision, grids: Sequence[Grid]) -> None:
        patches = sum(math.prod(grid) for grid in grids)
        self.linear(vision.embedding, "vision", patches)
        self.reached |= vision.positions_trained
        tokens = patches + vision.extra * sum(frames for frames, _, _ in grids)
        whole = sum(frames * (height * width + vision.extra) ** 2 for frames, height, width in grids)
        windowed = sum(window_pairs(grid, window=vision.window, merge=vision.merge) for grid in grids)
        for index, block in enumerate(vision.blocks):
            sees_all = not vision.window or index in vision.whole
            self.block(block, "vision", tokens=tokens, pairs=whole if sees_all else windowed)
            below = self.reached
            if index in vision.deeper:
                self.merger(vision.deeper[index], patches // vision.merge**2)
            self.reached = below  # the next block does not see what was merged
        self.merger(vision.merger, patches // vision.merge**2)
        self.reached |= any(merger.anything_trained for merger in vision.deeper.values())

    def merger(self, merger: Merger, tokens: int) -> None:
        self.reached |= merger.others_trained
        for layer in merger.layers:
            self.linear(layer, "vision", tokens)


def window_pairs(grid: Grid, *, window: int, merge: int) -> int:
    """Pairs of patches that see each other when every window of `window * merge` patches a side sees itself; those at
    the right and lower edge are what is left.

    >>> window_pairs((1, 6, 4), window=2, merge=2)  # windows of 4 x 4 and 2 x 4 patches
    320
    """
    frames, height, width = grid
    if not window:
        return 0
    return frames * _squares(height, window * merge) * _squares(width, window * merge)


def _squares(length: int, part: int) -> int:
    """The sum of the squared parts of a length.

    >>> _squares(10, 4)
    36
    """
    return length // part * part**2 + (length % part) ** 2


def count(
    model: RewardModel, shapes: Sequence[SequenceShape], *, training: bool = True, pooled_only: bool = True
) -> Flops:  # fmt: skip
    """The operations of one pass over trees of these shapes.

    Args:
        model: with weights, or from `outline` without any.
        shapes: of the trees, or of the plain sequences.
        training: forward and backward; else forward alone.
        pooled_only: whether the last decoder layer works for pooled tokens alone.

    Raises:
        ModelError: the backbone has layers that are not known.
    """
    return Counter(model, pooled_only=pooled_only)(shapes, training=training)


def count_batch(model: RewardModel, batch: TreeBatch, *, training: bool = True) -> Flops:
    """The operations of one pass over a batch."""
    return count(model, batch_shapes(batch), training=training)
