"""The parts of a backbone: vision, merger, language. Each is frozen, adapted and given a learning rate by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from basereward.model.families.registry import vision_families

PARTS = ("vision", "merger", "language")


def part_of(name: str) -> str:
    """The part of a parameter or module of a backbone, by its name.

    >>> part_of("visual.merger.mlp.0.weight"), part_of("visual.blocks.0.norm1.weight"), part_of("layers.0.mlp.up_proj")
    ('merger', 'vision', 'language')
    >>> part_of("visual.deepstack_merger_list.0.linear_fc1.weight"), part_of("multi_modal_projector.linear_1.weight")
    ('merger', 'merger')
    """
    path = name.split(".")
    for family in vision_families():
        if part := family.part_of(path):
            return part
    return "language"


def decoder_layers(transformer: nn.Module) -> list[Any]:
    """The layers of the language model, from first to last; an empty list for families that keep them elsewhere.

    >>> decoder_layers(nn.Linear(2, 2))
    []
    """
    # Models that read images have the language model as a submodule; text-only ones are the language model.
    return list(getattr(getattr(transformer, "language_model", transformer), "layers", ()))


def freeze(backbone: nn.Module, parts: Iterable[str]) -> None:
    """Excludes the parts from training.

    Args:
        backbone: with or without adapters; the adapters of a frozen part are frozen too.
        parts: any of `PARTS`.

    >>> model = nn.ModuleDict({"visual": nn.Linear(2, 2), "layers": nn.Linear(2, 2)})
    >>> freeze(model, ["vision"])
    >>> [name for name, weight in model.named_parameters() if weight.requires_grad]
    ['layers.weight', 'layers.bias']
    """
    frozen = set(parts)
    for name, parameter in backbone.named_parameters():
        if part_of(name) in frozen:
            parameter.requires_grad_(False)


def linear_layers(backbone: nn.Module, parts: Iterable[str]) -> Iterator[str]:
    """Names of the linear layers of the parts, including quantised ones.

    >>> list(linear_layers(nn.ModuleDict({"visual": nn.Linear(2, 2), "layers": nn.Linear(2, 2)}), ["vision"]))
    ['visual']
    """
    wanted = set(parts)
    for name, module in backbone.named_modules():
        # The quantised classes of bitsandbytes are subclasses of `nn.Linear`.
        if isinstance(module, nn.Linear) and part_of(name) in wanted:
            yield name
