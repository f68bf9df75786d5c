"""Counts the floating-point operations of a training step: multiplications and additions of its matrix products.

The count is what the step needs, whatever kernel executes it:

- A linear layer takes 2 * inputs * outputs for each token in the forward pass; as much again for the gradient of its
  weight, if that is trained; and for the gradient of its input, if anything before it is trained. So a frozen vision
  tower has no backward pass, and nor have the first projections of a language model that is trained by adapters only.
- Attention takes 4 * heads * head size for every pair of a query and a key that it sees (for its weight and its value),
  and twice that in the backward pass. Masked pairs cost nothing. A prefix of P tokens has P (P + 1) / 2 pairs, a branch
  of L tokens has L P + L (L + 1) / 2; a window of a vision tower has all its pairs.
- In the last decoder layer only pooled tokens need a query, an output and the feed-forward network.
- A generative head computes the logits of its target tokens, and then the last layer runs for all tokens. Generation
  is not counted.
- Padding, norms, activations, rotary positions and the optimizer are not counted, as is common (arXiv 2204.02311,
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
    recomputed: int = 0  # by gradient checkpointing: no part of the total, like in model FLOPs utilisation

    @property
    def total(self) -> int:
        """All operations except the recomputed ones."""
        return self.vision + self.language + self.attention + self.lora + self.head

    def __add__(self, other: Flops) -> Flops:
        return Flops(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


class Counter:
    """Counts the operations of one model; its layers are listed once.

    Args:
        model: with weights or on the meta device; adapters and frozen parts count as they are now.
        pooled_only: whether the last decoder layer is restricted to pooled tokens.

    Raises:
        ModelError: the backbone has layers that are not known.
    """

    def __init__(self, model: RewardModel, *, pooled_only: bool = True) -> None:
        self.layers: CountedLayers = layers_of(model)
        self.pooling = model.pooling
        self.pooled_only = pooled_only

    def __call__(self, shapes: Sequence[SequenceShape], *, training: bool = True) -> Flops:
        """The operations of one pass: forward, and with `training` also backward."""
        work = _FlopCount(training)
        grids: list[Grid] = []
        for shape in shapes:
            grids += shape.images
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
    """Adds up the layers in the order of execution, and tracks whether anything before is trained."""

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
        """Layers that share one input."""
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
            # Recomputation stops when everything that the backward pass needs is there: before the last product. It
            # includes that product if its output is scattered from pooled tokens, or multiplied by a vector.
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
            self.reached = below  # the next block does not read the merged states
        self.merger(vision.merger, patches // vision.merge**2)
        self.reached |= any(merger.anything_trained for merger in vision.deeper.values())

    def merger(self, merger: Merger, tokens: int) -> None:
        self.reached |= merger.others_trained
        for layer in merger.layers:
            self.linear(layer, "vision", tokens)


def window_pairs(grid: Grid, *, window: int, merge: int) -> int:
    """Pairs of patches in windows of `window * merge` patches a side; windows at the right and lower edge are smaller.

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
        model: with weights, or from `outline`.
        shapes: of the trees, or of the plain sequences.
        training: forward and backward; otherwise forward only.
        pooled_only: whether the last decoder layer is restricted to pooled tokens.

    Raises:
        ModelError: the backbone has layers that are not known.
    """
    return Counter(model, pooled_only=pooled_only)(shapes, training=training)


def count_batch(model: RewardModel, batch: TreeBatch, *, training: bool = True) -> Flops:
    """The operations of one pass over a batch."""
    return count(model, batch_shapes(batch), training=training)
