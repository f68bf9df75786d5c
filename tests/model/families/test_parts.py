"""The parts of a backbone, compared with the modules of the models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from basereward.model.backbone import load_backbone
from basereward.model.families.parts import PARTS, freeze, linear_layers, part_of
from tests.helpers.support import TEXT, VISION


def expected_part(model: nn.Module, name: str) -> str:
    """Return the part of the module that holds the parameter."""
    tower = getattr(model, "visual", getattr(model, "vision_tower", None))
    vision_parameters = dict(tower.named_parameters()) if isinstance(tower, nn.Module) else {}
    mergers = [module for module in (tower.children() if vision_parameters else ()) if "Merger" in str(module)]
    mergers += [model.multi_modal_projector] if hasattr(model, "multi_modal_projector") else []
    parameter = model.get_parameter(name)
    if any(parameter is weight for merger in mergers for weight in merger.parameters()):
        return "merger"
    return "vision" if any(parameter is weight for weight in vision_parameters.values()) else "language"


@pytest.mark.parametrize("family", [*VISION, *TEXT])
def test_part_of_every_weight(family: str, folder_of: Callable[[str], Path]) -> None:
    """`part_of` gives the module that holds the weight, and no part of an image model is empty."""
    model = load_backbone(folder_of(family)).transformer
    parts = {name: part_of(name) for name, _ in model.named_parameters()}
    assert parts == {name: expected_part(model, name) for name in parts}
    assert set(parts.values()) == (set(PARTS) if family in VISION else {"language"})


def test_adapters_have_the_part_of_their_layer() -> None:
    """Prefixes of wrappers and suffixes of adapters do not change the part."""
    prefix = "backbone.model.base_model.model."
    assert part_of(prefix + "visual.blocks.0.attn.qkv.lora_A.default.weight") == "vision"
    assert part_of(prefix + "visual.merger.mlp.0.lora_B.default.weight") == "merger"
    assert part_of(prefix + "language_model.layers.0.mlp.up_proj.lora_A.default.weight") == "language"


@pytest.mark.parametrize("parts", [["vision"], ["merger"], ["language"], ["vision", "merger"], []])
def test_freeze_stops_training_of_the_parts_only(parts: list[str], folder_of: Callable[[str], Path]) -> None:
    """A weight is trained unless its part is frozen."""
    backbone = load_backbone(folder_of("qwen2_5_vl"))
    freeze(backbone, parts)
    for name, parameter in backbone.transformer.named_parameters():
        assert parameter.requires_grad == (expected_part(backbone.transformer, name) not in parts), name


def test_linear_layers_of_the_parts(folder_of: Callable[[str], Path]) -> None:
    """There are seven linear layers per decoder layer, five per vision block and two in the merger."""
    model = load_backbone(folder_of("qwen2_5_vl")).transformer
    counts = {part: len(list(linear_layers(model, [part]))) for part in PARTS}
    assert counts == {"language": 2 * 7, "vision": 2 * 5, "merger": 2}
    names = list(linear_layers(model, PARTS))
    assert len(names) == sum(counts.values())
    assert all(isinstance(model.get_submodule(name), nn.Linear) for name in names)
