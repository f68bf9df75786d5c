"""The matrix products of a model, layer by layer in the order of execution, as input of the cost counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from basereward.errors import ModelError
from basereward.model.reward_model import RewardModel

# Roles of the linear layers of a transformer block, by their names in the families, in the order of execution.
# Attention follows the first role.
ROLES = {
    "project": ("q_proj", "k_proj", "v_proj", "qkv", "qkv_proj"),
    "output": ("o_proj", "proj", "out_proj", "projection_layer"),
    "widen": ("gate_proj", "up_proj", "gate_up_proj", "fc1", "linear_fc1"),
    "narrow": ("down_proj", "fc2", "linear_fc2"),
}
# A last layer with these can be restricted to pooled tokens; see `attention.last_layer`.
RESTRICTED = {"q_proj", "o_proj", "down_proj"}


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """A linear layer and its adapters.

    Attributes:
        name: the last part of its name in the model.
        inputs, outputs: its dimensions.
        trained: whether its own weight is trained.
        adapters: the two low-rank layers of each adapter.

    >>> down, up = LinearLayer("lora_A", 8, 2, trained=True), LinearLayer("lora_B", 2, 8, trained=True)
    >>> LinearLayer("q_proj", 8, 8, trained=False, adapters=((down, up),)).anything_trained
    True
    """

    name: str
    inputs: int
    outputs: int
    trained: bool
    adapters: tuple[tuple[LinearLayer, LinearLayer], ...] = ()

    @property
    def anything_trained(self) -> bool:
        """Whether the weight or an adapter is trained."""
        return self.trained or any(down.trained or up.trained for down, up in self.adapters)


@dataclass(frozen=True, slots=True)
class Block:
    """A transformer block.

    Attributes:
        stages: its linear layers, one stage for each of `ROLES`.
        others_trained: whether weights besides those of linear layers are trained, such as those of norms.
        checkpointed: whether the backward pass computes its activations again.
        scaled: whether its output is multiplied by a trained vector.

    >>> layer = LinearLayer("qkv", 8, 24, trained=False)
    >>> Block(((layer,),) * 4, others_trained=False, checkpointed=False, scaled=False).restrictable
    False
    """

    stages: tuple[tuple[LinearLayer, ...], ...]
    others_trained: bool
    checkpointed: bool
    scaled: bool

    @property
    def width(self) -> int:
        """Heads times head size: the multiplications of a pair of tokens for its weight, and again for its value."""
        return self.stages[1][0].inputs

    @property
    def layers(self) -> tuple[LinearLayer, ...]:
        """The layers of all stages."""
        return tuple(chain.from_iterable(self.stages))

    @property
    def restrictable(self) -> bool:
        """Whether the block, as the last one, can be restricted to pooled tokens."""
        return {layer.name for layer in self.layers} >= RESTRICTED


@dataclass(frozen=True, slots=True)
class Merger:
    """The layers that merge patches into tokens of the language model.

    Attributes:
        layers: in the order of execution.
        others_trained: whether its norm is trained.

    >>> Merger((), others_trained=True).anything_trained
    True
    """

    layers: tuple[LinearLayer, ...]
    others_trained: bool

    @property
    def anything_trained(self) -> bool:
        """Whether the norm, a linear layer or an adapter is trained."""
        return self.others_trained or any(layer.anything_trained for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Vision:
    """A vision tower of a Qwen-VL family, or of InternVL, whose tiles count as frames.

    Attributes:
        embedding: of the patches.
        extra: tokens of a frame besides its patches.
        positions_trained: whether the embeddings of positions are trained.
        blocks: in the order of execution.
        merger: of the output of the last block.
        deeper: by the index of an earlier block the merger of its output, which enters a deeper layer of the language
            model.
        merge: side of the square of patches that becomes one token.
        window: side of a window, in merged patches; 0: every block attends to whole frames.
        whole: indices of the blocks that attend to whole frames although others have windows.
    """

    embedding: LinearLayer
    extra: int
    positions_trained: bool
    blocks: tuple[Block, ...]
    merger: Merger
    deeper: dict[int, Merger]
    merge: int
    window: int
    whole: frozenset[int]


@dataclass(frozen=True, slots=True)
class CountedLayers:
    """All matrix products of a model.

    Attributes:
        vision: the vision tower; None for a text-only backbone.
        embedding_trained: whether the embedding of tokens is trained.
        blocks: of the language model, in the order of execution.
        norm_trained: whether the norm after the last block is trained.
        head: layers of the reward head.
        logits: the language-model head, for a generative head; otherwise None.
    """

    vision: Vision | None
    embedding_trained: bool
    blocks: tuple[Block, ...]
    norm_trained: bool
    head: tuple[LinearLayer, ...]
    logits: LinearLayer | None


def layers_of(model: RewardModel) -> CountedLayers:
    """Lists the layers of a model, which may be on the `meta` device.

    Raises:
        ModelError: the backbone has layers whose role is not known from their names, such as experts.
    """
    transformer: Any = model.backbone.transformer
    language = getattr(transformer, "language_model", transformer)
    blocks = tuple(_block(block) for block in language.layers)
    return CountedLayers(
        vision=_vision(transformer),
        embedding_trained=language.embed_tokens.weight.requires_grad,
        blocks=blocks,
        norm_trained=any(p.requires_grad for p in language.norm.parameters()),
        head=tuple(_linears(model.head)),
        logits=_logits(model, language),
    )


def _logits(model: RewardModel, transformer: Any) -> LinearLayer | None:
    if model.language is None:
        return None
    weight = model.language.of(transformer)
    return LinearLayer("lm_head", weight.shape[1], weight.shape[0], trained=weight.requires_grad)


def _block(block: nn.Module) -> Block:
    """The linear layers of a transformer block by their roles.

    Raises:
        ModelError: a layer has an unknown name, or a role has no layer.
    """
    by_name = {layer.name: layer for layer in _linears(block)}
    stages: list[tuple[LinearLayer, ...]] = []
    known: set[str] = set()
    for names in ROLES.values():
        stages.append(tuple(by_name[name] for name in names if name in by_name))
        known.update(names)
    if not all(stages) or not by_name.keys() <= known:
        raise ModelError(
            f"the operations of a {type(block).__name__} cannot be counted: its linear layers are "
            f"{', '.join(by_name)}; known are {', '.join(sorted(known))}"
        )
    # InternVL's vision blocks have layer scale (arXiv 2103.17239): `lambda_2` multiplies the output.
    scale = getattr(block, "lambda_2", None)
    return Block(
        tuple(stages),
        others_trained=_others_trained(block),
        checkpointed=bool(getattr(block, "gradient_checkpointing", False)),
        scaled=isinstance(scale, nn.Parameter) and scale.requires_grad,
    )


def _vision(transformer: Any) -> Vision | None:
    if hasattr(transformer, "visual"):
        return _qwen_tower(transformer.visual, transformer.config.vision_config)
    return _internvl_tower(transformer) if hasattr(transformer, "vision_tower") else None


def _internvl_tower(transformer: Any) -> Vision:
    """The tower of InternVL, which has one class token for every tile.

    Raises:
        ModelError: the language model does not read the last layer of the tower.
    """
    layer = transformer.config.vision_feature_layer
    if layer != -1:
        raise ModelError(
            f"vision_feature_layer is {layer} in config.json of the backbone; operations can be counted only for -1, "
            "the last layer"
        )
    tower, (side, _) = transformer.vision_tower, transformer.config.vision_config.patch_size
    weight: Tensor = tower.embeddings.patch_embeddings.projection.weight
    return Vision(
        embedding=LinearLayer("projection", weight.shape[1] * side**2, weight.shape[0], weight.requires_grad),
        extra=1,
        positions_trained=_others_trained(tower.embeddings),
        blocks=tuple(_block(block) for block in tower.encoder.layer),
        merger=_merger(transformer.multi_modal_projector),
        deeper={},
        merge=int(1 / transformer.config.downsample_ratio),
        window=0,
        whole=frozenset(),
    )


def _qwen_tower(tower: Any, config: Any) -> Vision:
    """The tower of Qwen2-VL, Qwen2.5-VL or Qwen3-VL."""
    patches = tower.patch_embed.proj
    weight: Tensor = patches.weight
    inputs = weight.numel() // weight.shape[0]
    merge = int(config.spatial_merge_size)
    window = getattr(config, "window_size", 0)
    taken = getattr(config, "deepstack_visual_indexes", ())
    positions = getattr(tower, "pos_embed", None)
    return Vision(
        embedding=LinearLayer("patch_embed", inputs, weight.shape[0], weight.requires_grad),
        extra=0,
        positions_trained=positions is not None and _others_trained(positions),
        blocks=tuple(_block(block) for block in tower.blocks),
        merger=_merger(tower.merger),
        deeper={index: _merger(tower.deepstack_merger_list[i]) for i, index in enumerate(taken)},
        merge=merge,
        window=window // merge // config.patch_size,
        whole=frozenset(getattr(config, "fullatt_block_indexes", ())),
    )


def _merger(module: nn.Module) -> Merger:
    return Merger(tuple(_linears(module)), _others_trained(module))


def _linears(module: nn.Module) -> Iterator[LinearLayer]:
    """Linear layers in the order in which they are registered, each with its adapters."""
    # The layers inside of an adapted layer are found with it, and must not be found a second time.
    adapted: tuple[str, ...] = ()
    for path, layer in module.named_modules():
        if path.startswith(adapted) and adapted:
            continue
        name = path.rpartition(".")[2]
        if isinstance(layer, LoraLayer):
            adapted += (path + ".",)
            lora: Any = layer
            pairs = [(lora.lora_A[key], lora.lora_B[key]) for key in lora.active_adapters if key in lora.lora_A]
            adapters = tuple((_plain("lora_A", down), _plain("lora_B", up)) for down, up in pairs)
            yield _plain(name, lora.get_base_layer(), adapters)
        elif isinstance(layer, nn.Linear):
            yield _plain(name, layer)


def _plain(name: str, layer: Any, adapters: tuple[tuple[LinearLayer, LinearLayer], ...] = ()) -> LinearLayer:
    return LinearLayer(name, layer.in_features, layer.out_features, layer.weight.requires_grad, adapters)


def _others_trained(module: nn.Module) -> bool:
    """Whether a weight outside of linear layers is trained, such as that of a norm."""
    for owner in module.modules():
        if not isinstance(owner, nn.Linear) and any(p.requires_grad for p in owner.parameters(recurse=False)):
            return True
    return False
