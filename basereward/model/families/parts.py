"""The parts of a backbone that are frozen, adapted and given a learning rate apart: vision, merger, language."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

PARTS = ("vision", "merger", "language")


def part_of(name: str) -> str:
    """The part of a parameter or module of a backbone, by its name.

    >>> part_of("visual.merger.mlp.0.weight"), part_of("visual.blocks.0.norm1.weight"), part_of("layers.0.mlp.up_proj")
    ('merger', 'vision', 'language')
    >>> part_of("visual.deepstack_merger_list.0.linear_fc1.weight"), part_of("multi_modal_projector.linear_1.weight")
    ('merger', 'merger')
    """
    path = name.split(".")
    if "multi_modal_projector" in path:
        return "merger"
    if "visual" not in path and "vision_tower" not in path:
        return "language"
    return "merger" if any("merger" in step for step in path) else "vision"


def decoder_layers(transformer: nn.Module) -> list[Any]:
    """The layers of the language model, from first to last; none where a family keeps them elsewhere."""
    return list(getattr(getattr(transformer, "language_model", transformer), "layers", ()))


def freeze(backbone: nn.Module, parts: Iterable[str]) -> None:
    """Takes the parts out of training."""
    frozen = set(parts)
    for name, parameter in backbone.named_parameters():
        if part_of(name) in frozen:
            parameter.requires_grad_(False)


def linear_layers(backbone: nn.Module, parts: Iterable[str]) -> Iterator[str]:
    """Names of the linear layers of the parts, quantised ones included."""
    wanted = set(parts)
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Linear) and part_of(name) in wanted:
            yield name
