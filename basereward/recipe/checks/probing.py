"""What is kept of a backbone that is not trained: its pooled states, for probes, and features of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from basereward.recipe.checks.generative_heads import speaks
from basereward.recipe.schema import ModelRecipe, Recipe

PARTS = ("vision", "merger", "language")


def trained_model(recipe: Recipe) -> ModelRecipe:
    """Section `model` as it is trained: a probe freezes every part of the backbone, whatever the section says."""
    if not recipe.probe:
        return recipe.model
    return replace(recipe.model, backbone=replace(recipe.model.backbone, freeze=list(PARTS)))


def probe(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What cannot be had of states that are computed before the training."""
    if not recipe.probe:
        return
    given = "probe is true, so that the backbone stays as it is"
    if recipe.model.lora is not None:
        yield "model.lora", f"{given} and has nothing to adapt. Set it to null, or probe to false"
    if recipe.data.streaming is not None:
        yield "data.streaming", f"{given}, and what is kept of it needs groups that can be found again. Set it to null"
    if recipe.trainer.compile:
        yield "trainer.compile", f"{given} and runs once a group, which repays no compiling. Set it to false"
    if speaks(recipe.model.head):
        name = recipe.model.head["_target_"]
        yield "model.head", f"{given}, and head '{name}' writes with it. Allowed: heads that score pooled states"


def features(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Features are kept of a tower that does not change."""
    given, backbone, lora = recipe.data.encoding.feature_cache, trained_model(recipe).backbone, recipe.model.lora
    still = backbone.freeze if backbone.quantization is None else PARTS
    trained = [part for part in ("vision", "merger") if (part in lora.parts if lora else part not in still)]
    if given is not None and trained:
        message = f"{given:g} given, and {' and '.join(trained)} would be trained. Allowed where neither is"
        way = "name both in model.backbone.freeze, leave both out of LoRA, or set it to null"
        yield "data.encoding.feature_cache", f"{message}: {way}"
