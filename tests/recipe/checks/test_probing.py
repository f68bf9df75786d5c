"""Recipes of probes: what they freeze, and what they cannot be combined with."""

from __future__ import annotations

from typing import Any

import pytest

from basereward.recipe import find_faults, load_recipe, recipe_sha256
from basereward.recipe.checks.probing import trained_model


def faults(*changes: str) -> dict[str, str]:
    """Return key and message of the faults of a probe."""
    all_faults: list[Any] = find_faults("basereward", profile="tiny", overrides=["probe=true", *changes])[1]
    return {fault.key: fault.message for fault in all_faults}


def test_probe_freezes_the_whole_backbone() -> None:
    """Whatever `freeze` says; the recipe itself does not change, and a recipe that is no probe is trained as
    written."""
    recipe = load_recipe("basereward", overrides=["probe=true", "model.backbone.freeze=[vision]"])
    assert trained_model(recipe).backbone.freeze == ["vision", "merger", "language"]
    assert recipe.model.backbone.freeze == ["vision"]
    assert trained_model(recipe).head == recipe.model.head
    plain = load_recipe("basereward", overrides=["model.backbone.freeze=[vision]"])
    assert trained_model(plain) == plain.model
    assert recipe_sha256(plain) != recipe_sha256(recipe)


@pytest.mark.parametrize(
    ("change", "key", "message"),
    [
        ("model.lora.rank=4", "model.lora", "Set model.lora=null"),
        ("data.streaming.buffer=5", "data.streaming", "Set it to null"),
        ("trainer.compile=true", "trainer.compile", "Set trainer.compile=false"),
        ("model.head._target_=critic", "model.head", "head 'critic'"),
        ("model.head._target_=generative", "model.head", "head 'generative'"),
        ("model.head._target_=rating", "model.head", "Allowed: heads that score pooled states"),
        ("optimizer.lr_by_part.language=1e-3", "optimizer.lr_by_part.language", "probe freezes it"),
    ],
)
def test_option_that_needs_the_backbone_is_a_fault(change: str, key: str, message: str) -> None:
    """The fault is at its key, with a remedy, before anything is loaded."""
    assert message in faults(change, "trainer.steps=10", "data.mixture.weights={digits: 1, numbers: 1}")[key]


@pytest.mark.parametrize("change", ["model.head._target_=linear", "data.encoding.feature_cache=1.0", "probe=false"])
def test_option_that_fits_a_probe_is_no_fault(change: str) -> None:
    """Scalar heads, and cached image features, since the vision tower is frozen."""
    assert faults(change, "data.streaming=null") == {}
