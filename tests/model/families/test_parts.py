"""The parts of a backbone against the modules that the models themselves have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from basereward.model.backbone import load_backbone
from basereward.model.families.parts import PARTS, freeze, linear_layers, part_of
from tests.helpers.support import TEXT, VISION


def expected_part(model: nn.Module, name: str) -> str:
    """By which module of the model holds the parameter."""
    tower = getattr(model, "visual", getattr(model, "vision_tower", None))
    visual = dict(tower.named_parameters()) if isinstance(tower, nn.Module) else {}
    mergers = [module for module in (tower.children() if visual else ()) if "Merger" in str(module)]
    mergers += [model.multi_modal_projector] if hasattr(model, "multi_modal_projector") else []
    parameter = model.get_parameter(name)
    if any(parameter is each for merger in mergers for each in merger.parameters()):
        return "merger"
    return "vision" if any(parameter is each for each in visual.values()) else "language"


@pytest.mark.parametrize("family", [*VISION, *TEXT])
def test_every_weight_is_of_the_part_that_holds_it(family: str, folder_of: Callable[[str], Path]) -> None:
    """The part told by the name is the module that holds the weight, and no part of a vision model is empty."""
    model = load_backbone(folder_of(family)).transformer
    found = {name: part_of(name) for name, _ in model.named_parameters()}
    assert found == {name: expected_part(model, name) for name in found}
    assert set(found.values()) == (set(PARTS) if family in VISION else {"language"})


def test_adapters_are_of_the_part_of_their_layer() -> None:
    """Names below wrappers, and those of adapters, tell the same part."""
    before = "backbone.model.base_model.model."
    assert part_of(before + "visual.blocks.0.attn.qkv.lora_A.default.weight") == "vision"
    assert part_of(before + "visual.merger.mlp.0.lora_B.default.weight") == "merger"
    assert part_of(before + "language_model.layers.0.mlp.up_proj.lora_A.default.weight") == "language"


@pytest.mark.parametrize("parts", [["vision"], ["merger"], ["language"], ["vision", "merger"], []])
def test_freezing_takes_exactly_the_parts_out_of_training(parts: list[str], folder_of: Callable[[str], Path]) -> None:
    """A weight is trained unless its part is frozen."""
    backbone = load_backbone(folder_of("qwen2_5_vl"))
    freeze(backbone, parts)
    for name, parameter in backbone.transformer.named_parameters():
        assert parameter.requires_grad == (expected_part(backbone.transformer, name) not in parts), name


def test_linear_layers_are_those_of_the_parts(folder_of: Callable[[str], Path]) -> None:
    """Seven linear layers a layer of the language model, five a block of the vision tower, two in its merger."""
    model = load_backbone(folder_of("qwen2_5_vl")).transformer
    counts = {part: len(list(linear_layers(model, [part]))) for part in PARTS}
    assert counts == {"language": 2 * 7, "vision": 2 * 5, "merger": 2}
    names = list(linear_layers(model, PARTS))
    assert len(names) == sum(counts.values())
    assert all(isinstance(model.get_submodule(name), nn.Linear) for name in names)
