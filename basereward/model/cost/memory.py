"""The memory of training: weights, gradients and moments are counted, activations are estimated.

The estimate adds up the tensors that transformers' layers store for the backward pass. Fused kernels store less, and
the allocator needs some more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch

from basereward.model.cost.layers import Block, CountedLayers, LinearLayer, layers_of
from basereward.model.families.parts import part_of
from basereward.model.quantization import Quantization
from basereward.model.reward_model import RewardModel

# Bytes of a weight. Doubly quantised 4-bit normal floats have a scale of 8 bits for 64 weights, and 32 bits more for
# 256 of these scales (arXiv 2305.14314, section 3). LLM.int8() has one scale for each row, which is negligible.
QUANTIZED: dict[Quantization, float] = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
# The 8-bit optimizers of bitsandbytes keep 32-bit moments for tensors with fewer values than this.
MIN_8BIT_SIZE = 4096


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in use at the peak of training.

    Attributes:
        weights: of the model.
        gradients: of the trained weights.
        moments: of the optimizer.
        copies: of weights that autocast has cast.
        activations: stored for the backward pass, and temporary ones.
        masters: float32 copies of trained weights in bfloat16.

    >>> Memory(weights=4, gradients=1, moments=2, copies=0, activations=3).peak
    10
    """

    weights: int
    gradients: int
    moments: int
    copies: int
    activations: int
    masters: int = 0

    @property
    def state(self) -> int:
        """What is held whatever the size of a forward pass: weights with master copies, gradients and moments."""
        return self.weights + self.gradients + self.moments + self.masters

    @property
    def peak(self) -> int:
        """The sum of all parts."""
        return sum(getattr(self, part.name) for part in fields(self))


@dataclass(frozen=True, slots=True)
class PassTokens:
    """The size of a forward pass.

    Attributes:
        tokens: of all rows.
        pooled: of these, the tokens that the head reads.
        patches: of all images.

    >>> PassTokens(tokens=512, pooled=8).patches
    0
    """

    tokens: int
    pooled: int
    patches: int = 0


def memory(
    model: RewardModel,
    size: PassTokens,
    *,
    mixed: bool = False,
    quantization: Quantization | None = None,
    eight_bit: bool = False,
    dropout: bool = False,
    bfloat16: Literal["nearest", "master", "stochastic"] = "nearest",
    checkpointed: int | None = None,
) -> Memory:
    """Estimates the memory of training a model, in bytes.

    Args:
        model: with weights or on the meta device.
        size: of the largest forward pass.
        mixed: matrix products are in bfloat16 whatever the precision of the weights.
        quantization: of the language model; a model on the meta device does not show it.
        eight_bit: the optimizer's moments have 8 bits.
        dropout: whether the adapters have dropout.
        bfloat16: how trained weights in bfloat16 are updated; see `OptimizerRecipe`.
        checkpointed: number of layers of the language model that store only their inputs; None: as the model has it.

    Raises:
        ModelError: the backbone has layers that are not known.
    """
    layers = _with_checkpoints(layers_of(model), checkpointed)
    trained = [p for p in model.parameters() if p.requires_grad]
    stores = _Stores(mixed=mixed, weights=model.backbone.transformer.dtype, dropout=dropout)
    return Memory(
        weights=round(sum(_weights(model, quantization))),
        gradients=sum(p.numel() * p.element_size() for p in trained),
        moments=sum(_moments(p, eight_bit=eight_bit, in_float32=bfloat16 != "nearest") for p in trained),
        # Weights in bfloat16 need no cast.
        copies=_copies(layers) if mixed and stores.stream == 4 else 0,
        activations=_activations(layers, size, stores),
        masters=_masters(trained) if bfloat16 == "master" else 0,
    )


def _with_checkpoints(layers: CountedLayers, checkpointed: int | None) -> CountedLayers:
    """The layers, of which the first ones of the language model store only their inputs; None: as they are."""
    if checkpointed is None:
        return layers
    blocks = []
    for index, block in enumerate(layers.blocks):
        blocks.append(replace(block, checkpointed=index < checkpointed))
    return replace(layers, blocks=tuple(blocks))


def _moments(weight: torch.nn.Parameter, *, eight_bit: bool, in_float32: bool) -> int:
    """The bytes of the two moments of a trained weight: in 8 bits, in float32, or in its own precision."""
    if eight_bit and weight.numel() >= MIN_8BIT_SIZE:
        return 2 * weight.numel()
    return 2 * weight.numel() * (4 if in_float32 else weight.element_size())


def _masters(trained: Sequence[torch.nn.Parameter]) -> int:
    """The bytes of float32 copies of trained weights in lower precision."""
    return sum(4 * weight.numel() for weight in trained if weight.element_size() < 4)


def _weights(model: RewardModel, quantization: Quantization | None) -> Iterator[float]:
    """The bytes of every weight."""
    quantized = {id(p) for p in _quantizable(model)} if quantization else set()
    for parameter in model.parameters():
        per_weight = QUANTIZED[quantization] if quantization and id(parameter) in quantized else None
        yield parameter.numel() * (parameter.element_size() if per_weight is None else per_weight)


def _quantizable(model: RewardModel) -> Iterator[torch.nn.Parameter]:
    """The weights that quantisation reduces: matrices in the layers of the language model, without adapters."""
    for name, parameter in model.backbone.transformer.named_parameters():
        in_layer = ".layers." in f".{name}" and part_of(name) == "language" and "lora_" not in name
        if in_layer and parameter.ndim == 2 and parameter.element_size() > 1:
            yield parameter


def _copies(layers: CountedLayers) -> int:
    """Bytes of cast weights that live from the forward to the backward pass.

    These are all weights that the backward pass reads. Checkpointed layers cast them again, except for trained weights,
    whose copies autocast caches.
    """
    kept = 0
    for block, reached in _reached(layers):
        for layer in block.layers:
            if reached and (layer.trained or not block.checkpointed):
                kept += 2 * layer.inputs * layer.outputs
    return kept


def _reached(layers: CountedLayers) -> Iterator[tuple[Block, bool]]:
    """The blocks, each with whether the backward pass reaches it."""
    reached = False
    for block in (*(layers.vision.blocks if layers.vision else ()), *layers.blocks):
        reached |= _trained(block)
        yield block, reached


def _trained(block: Block) -> bool:
    return block.others_trained or any(layer.anything_trained for layer in block.layers)


def _activations(layers: CountedLayers, size: PassTokens, stores: _Stores) -> int:
    """Bytes of activations at the peak: those that are stored, and the largest temporary ones of a single block."""
    kept, largest = 0, 0
    language = len(layers.blocks)
    blocks = list(_reached(layers))
    for index, (block, reached) in enumerate(blocks):
        in_vision = index < len(blocks) - language
        tokens = size.patches if in_vision else size.tokens
        whole = stores.block(block) * tokens
        if index == len(blocks) - 1 and block.restrictable:
            whole = stores.last(block) * tokens + stores.block(block) * size.pooled
        if not reached:
            largest = max(largest, stores.working(block) * tokens)
        elif block.checkpointed:
            # Only the input is stored; in the backward pass one block at a time has its activations.
            kept += stores.stream * block.stages[0][0].inputs * tokens
            largest = max(largest, whole + stores.working(block) * tokens)
        else:
            kept += whole
            largest = max(largest, stores.working(block) * tokens)
    # The norm after the last block, as in `_Stores._norms`.
    if blocks[-1][1]:
        kept += layers.blocks[-1].stages[0][0].inputs * (4 + stores.stream * layers.norm_trained) * size.tokens
    return kept + largest


class _Stores:
    """Bytes that a block stores for every token.

    Attributes:
        stream: bytes of a number in the residual stream.
        product: bytes of a number in a matrix product.
    """

    def __init__(self, *, mixed: bool, weights: torch.dtype, dropout: bool) -> None:
        self.mixed = mixed
        self.dropout = dropout
        self.stream = weights.itemsize
        self.product = 2 if mixed else weights.itemsize

    def block(self, block: Block) -> int:
        """Bytes for a token of a block that is not checkpointed."""
        project, output, widen, narrow = block.stages
        # Queries and outputs; keys and values.
        attention = self.product * (2 * block.width + self._keys(block))
        gated = self.product * narrow[0].inputs * (2 * len(widen) - 1)
        inputs = sum(self._inputs(stage) for stage in (project, output, widen, narrow))
        return self._norms(block) + inputs + attention + gated

    def last(self, block: Block) -> int:
        """Bytes for a token that is not pooled, in the last layer."""
        project = tuple(layer for layer in block.stages[0] if layer.name != "q_proj")
        return self._norms(block) + self._inputs(project) + self.product * 2 * self._keys(block)

    def working(self, block: Block) -> int:
        """Temporary bytes within a block: inner activations of the feed-forward network and their gradients."""
        return self.product * block.stages[3][0].inputs * (len(block.stages[2]) + 1)

    def _keys(self, block: Block) -> int:
        """Numbers in the keys and values of a token."""
        return sum(layer.outputs for layer in block.stages[0]) - block.width

    def _norms(self, block: Block) -> int:
        """Bytes of two norms: the input in float32, and the normalised states if the norm's weight is trained."""
        return 2 * block.stages[0][0].inputs * (4 + self.stream * block.others_trained)

    def _inputs(self, stage: tuple[LinearLayer, ...]) -> int:
        """Bytes that layers with one input store of it; with dropout each adapter stores its own, and a mask."""
        width = stage[0].inputs
        adapted = sum(bool(layer.adapters) for layer in stage)
        if not adapted:
            return self.product * width if stage[0].trained else 0
        return width * (self.product * (adapted if self.dropout else 1) + self.dropout * adapted)
