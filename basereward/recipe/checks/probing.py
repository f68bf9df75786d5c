"""Keys that cannot be combined with results of a frozen backbone: pooled states of probes, features of images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from basereward.recipe.checks.generative_heads import is_generative
from basereward.recipe.schema import ModelRecipe, Recipe

PARTS = ("vision", "merger", "language")


def trained_model(recipe: Recipe) -> ModelRecipe:
    """The section `model` as it is trained: a probe freezes every part of the backbone, whatever the section says.

    >>> trained_model(Recipe(probe=True)).backbone.freeze
    ['vision', 'merger', 'language']
    """
    if not recipe.probe:
        return recipe.model
    return replace(recipe.model, backbone=replace(recipe.model.backbone, freeze=list(PARTS)))


def probe_problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What a probe excludes, because it computes the pooled states once, before training.

    >>> from basereward.recipe.schema import TrainerRecipe
    >>> [key for key, message in probe_problems(Recipe(probe=True, trainer=TrainerRecipe(compile=True)))]
    ['trainer.compile']
    """
    if not recipe.probe:
        return
    reason = "probe is true, so the backbone is frozen"
    if recipe.model.lora is not None:
        yield "model.lora", f"{reason} and LoRA would change nothing. Set model.lora=null, or probe=false"
    if recipe.data.streaming is not None:
        yield "data.streaming", f"{reason}, and its states are cached by group, which a stream lacks. Set it to null"
    if recipe.trainer.compile:
        yield (
            "trainer.compile",
            f"{reason} and sees each group once; compiling gains nothing. Set trainer.compile=false",
        )
    if is_generative(recipe.model.head):
        name = recipe.model.head["_target_"]
        message = f"{reason}, and head '{name}' generates text with it. Allowed: heads that score pooled states"
        yield "model.head", message


def feature_cache_problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Cached features of images need a vision tower and a merger that do not change.

    >>> from basereward.recipe.schema import DataRecipe, EncodingRecipe
    >>> recipe = Recipe(data=DataRecipe(encoding=EncodingRecipe(feature_cache=4.0)))
    >>> [key for key, message in feature_cache_problems(recipe)]
    ['data.encoding.feature_cache']
    """
    limit, backbone, lora = recipe.data.encoding.feature_cache, trained_model(recipe).backbone, recipe.model.lora
    if limit is None:
        return
    if lora is not None:
        trained = [part for part in ("vision", "merger") if part in lora.parts]
    else:
        # Quantized weights are frozen, whatever `freeze` names.
        frozen = backbone.freeze if backbone.quantization is None else PARTS
        trained = [part for part in ("vision", "merger") if part not in frozen]
    if trained:
        message = f"{limit:g} given, and {' and '.join(trained)} would be trained. Allowed where neither is"
        remedy = "name both in model.backbone.freeze, leave both out of model.lora.parts, or set it to null"
        yield "data.encoding.feature_cache", f"{message}: {remedy}"
