"""Counts the floating-point operations of a training step: multiplications and additions of its matrix products.

The count is what the step needs, whatever kernel executes it:

- A linear layer takes 2 * inputs * outputs for each token in the forward pass. The gradient of its weight takes as much
  again, if the weight is trained; so does the gradient of its input, if anything before it is trained. So a frozen
  vision tower has no backward pass, and neither have the first projections of a language model with adapters only.
- Attention takes 4 * heads * head size for every pair of a query and a key that it sees (one product for the weight and
  one for the value), and twice that in the backward pass. Masked pairs cost nothing. A prefix of P tokens has
  P (P + 1) / 2 pairs, and a branch of L tokens has L P + L (L + 1) / 2; a window of a vision tower has all its pairs.
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
    """Floating-point operations of matrix products.

    Attributes:
        vision: linear layers of the vision tower and its merger.
        language: linear layers of the language model, and the logits of a generative head.
        attention: of the vision tower and the language model.
        lora: adapters of both.
        head: the reward head.
        recomputed: by gradient checkpointing. They are no part of the total, as in model FLOPs utilisation
            (arXiv 2204.02311, appendix B).

    >>> (Flops(language=6, recomputed=2) + Flops(attention=1)).total
    7
    """

    vision: int = 0
    language: int = 0
    attention: int = 0
    lora: int = 0
    head: int = 0
    recomputed: int = 0

    @property
    def total(self) -> int:
        """All operations except the recomputed ones."""
        return self.vision + self.language + self.attention + self.lora + self.head

    def __add__(self, other: Flops) -> Flops:
        return Flops(*(getattr(self, kind.name) + getattr(other, kind.name) for kind in fields(self)))


class Counter:
    """Counts the operations of one model; its layers are listed once.

    Args:
        model: with weights or on the meta device; adapters and frozen parts count as they are now.
        pooled_only: whether the last decoder layer is restricted to pooled tokens.

    Raises:
        ModelError: the backbone has layers whose role is not known from their names.
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
        target_tokens = sum(shape.written for shape in shapes) if self.layers.logits is not None else 0
        self._count_decoder(work, shapes, all_states=bool(target_tokens))
        if self.layers.logits is not None:
            # The reward head does not read the logits, so they do not change what its backward pass reaches.
            reached = work.reached
            work.linear(self.layers.logits, "language", target_tokens)
            work.reached = reached
        for layer in self.layers.head:
            work.linear(layer, "head", sum(len(shape.branches) for shape in shapes))
        return Flops(**work.done)

    def _count_decoder(self, work: _FlopCount, shapes: Sequence[SequenceShape], *, all_states: bool) -> None:
        """Adds the layers of the language model.

        Args:
            work: the counts, to which they are added.
            shapes: of the pass.
            all_states: whether the states of all tokens are read, and not only those of the pooled ones.
        """
        work.reached |= self.layers.embedding_trained
        tokens, pairs = sum(shape.tokens for shape in shapes), sum(shape.pairs for shape in shapes)
        *blocks, last = self.layers.blocks
        for block in blocks:
            work.block(block, "language", tokens=tokens, pairs=pairs)
        if self.pooled_only and last.restrictable and not all_states:
            pooled = sum(shape.pooled(self.pooling) for shape in shapes)
            pooled_pairs = sum(shape.pairs_of_pooled(self.pooling) for shape in shapes)
            work.block(last, "language", tokens=tokens, pairs=pooled_pairs, pooled=pooled)
        else:
            work.block(last, "language", tokens=tokens, pairs=pairs)
        work.reached |= self.layers.norm_trained


class _FlopCount:
    """Adds up the layers in the order of execution, and tracks whether anything before is trained.

    Attributes:
        done: operations of each kind so far.
        reached: whether the backward pass reaches the next layer, because something before it is trained.
    """

    def __init__(self, training: bool) -> None:
        self.training = training
        self.done = {kind.name: 0 for kind in fields(Flops)}
        self.reached = False
        # Operations of all forward passes so far; differences of it give those of one block.
        self._forward = 0

    def linear(self, layer: LinearLayer, kind: str, tokens: int) -> None:
        """Adds a linear layer with its adapters."""
        for down, up in layer.adapters:
            # The base layer and its adapters read the same input, so a trained adapter does not lead through the base.
            reached = self.reached
            self.linear(down, "lora", tokens)
            self.linear(up, "lora", tokens)
            self.reached = reached
        # Forward; gradient of the weight, if it is trained; gradient of the input, if anything before needs it.
        passes = 1 + self.training * (layer.trained + self.reached)
        once = 2 * layer.inputs * layer.outputs * tokens
        self._forward += once
        self.done[kind] += passes * once
        self.reached |= layer.anything_trained

    def parallel(self, layers: Iterable[LinearLayer], kind: str, tokens: Sequence[int]) -> None:
        """Adds layers that read the same input: a trained one does not lead the backward pass through the others."""
        before = self.reached
        reached = before
        for layer, count in zip(layers, tokens, strict=True):
            self.reached = before
            self.linear(layer, kind, count)
            reached |= layer.anything_trained
        self.reached = reached

    def attention(self, width: int, pairs: int) -> None:
        """Adds the two products of attention: queries with keys, and weights with values."""
        once = 4 * width * pairs
        self._forward += once
        # Each of the two products has the gradients of both of its factors.
        self.done["attention"] += (1 + 2 * (self.training and self.reached)) * once

    def block(self, block: Block, kind: str, *, tokens: int, pairs: int, pooled: int | None = None) -> None:
        """Adds a transformer block.

        Args:
            block: its layers.
            kind: `vision` or `language`.
            tokens: of the pass.
            pairs: of a query and a key that it sees.
            pooled: tokens that need more than a key and a value; None: all of them.
        """
        few = tokens if pooled is None else pooled
        before = self._forward
        self.reached |= block.others_trained
        project, *rest = block.stages
        self.parallel(project, kind, [few if layer.name == "q_proj" else tokens for layer in project])
        self.attention(block.width, pairs)
        for stage in rest:
            self.parallel(stage, kind, [few] * len(stage))
        if block.checkpointed and self.training and self.reached:
            # A block whose last product is scattered from pooled tokens needs that product again.
            omitted = _omitted_at_recomputation(block, tokens) if pooled is None else 0
            self.done["recomputed"] += self._forward - before - omitted

    def vision(self, vision: Vision, grids: Sequence[Grid]) -> None:
        """Adds a vision tower and its mergers, for images with these grids of patches."""
        patches = sum(math.prod(grid) for grid in grids)
        self.linear(vision.embedding, "vision", patches)
        self.reached |= vision.positions_trained
        tokens = patches + vision.extra * sum(frames for frames, _, _ in grids)
        whole = sum(frames * (height * width + vision.extra) ** 2 for frames, height, width in grids)
        windowed = sum(window_pairs(grid, window=vision.window, merge=vision.merge) for grid in grids)
        for index, block in enumerate(vision.blocks):
            sees_all = not vision.window or index in vision.whole
            self.block(block, "vision", tokens=tokens, pairs=whole if sees_all else windowed)
            reached = self.reached
            if index in vision.deeper:
                self.merger(vision.deeper[index], patches // vision.merge**2)
            # The next block reads the output of this one, and not the merged states.
            self.reached = reached
        self.merger(vision.merger, patches // vision.merge**2)
        self.reached |= any(merger.anything_trained for merger in vision.deeper.values())

    def merger(self, merger: Merger, tokens: int) -> None:
        """Adds a merger; `tokens` are those that it gives to the language model."""
        self.reached |= merger.others_trained
        for layer in merger.layers:
            self.linear(layer, "vision", tokens)


def _omitted_at_recomputation(block: Block, tokens: int) -> int:
    """Operations of a checkpointed block that are not computed again.

    Recomputation stops when everything that the backward pass needs is there, which is before the last product. It
    includes that product if the output is multiplied by a trained vector.
    """
    if block.scaled:
        return 0
    return sum(2 * layer.inputs * layer.outputs * tokens for layer in block.stages[-1] if not layer.adapters)


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
) -> Flops:
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
    """The operations of one pass over a batch; see `count` for the arguments."""
    return count(model, batch_shapes(batch), training=training)
