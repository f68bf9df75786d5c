"""The model card of an ensemble."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from huggingface_hub import ModelCardData

from basereward.inference.aggregation import Rule
from basereward.inference.export.model_card import (
    LIBRARY,
    PIPELINES,
    TAGS,
    hub_backbone,
    hub_datasets,
    intended_use,
    saved_usage,
    with_metadata,
)
from basereward.recipe.schema import Recipe


def ensemble_card(recipes: Sequence[Recipe], rule: Rule, *, images: bool) -> str:
    """The text of README.md of an ensemble.

    Args:
        recipes: of the members, in their order.
        rule: how the scores of the members are combined.
        images: whether a member reads images.

    >>> from basereward.recipe.schema import ModelRecipe
    >>> model = ModelRecipe(head={"_target_": "mlp"})
    >>> recipe = Recipe(name="small", model=model, loss={"_target_": "bradley_terry"})
    >>> card = ensemble_card([recipe, recipe], Rule("mean", members=2), images=False)
    >>> [line for line in card.splitlines() if line.startswith("| 2")]
    ['| 2 | small | mlp | a checkpoint in a folder | bradley_terry |  |']
    """
    backbones = {hub_backbone(recipe) for recipe in recipes} - {None}
    datasets: set[str] = set()
    for recipe in recipes:
        datasets.update(hub_datasets(recipe))
    data = ModelCardData(
        pipeline_tag=PIPELINES[images],
        library_name=LIBRARY,
        base_model=sorted(str(name) for name in backbones) or None,
        datasets=sorted(datasets) or None,
        tags=[*TAGS, "ensemble"],
    )
    return with_metadata(data, _page(recipes, rule, images=images))


def _page(recipes: Sequence[Recipe], rule: Rule, *, images: bool) -> Iterator[str]:
    yield "# Ensemble of reward models"
    yield ""
    yield f"{len(recipes)} reward models that BaseReward trained. The score of an answer is the `{rule.how}` of their"
    yield "scores, and a higher number means a better answer."
    yield ""
    yield "## Use"
    yield ""
    yield from saved_usage(images=images)
    yield ""
    yield "## Members"
    yield ""
    yield "| member | recipe | head | backbone | loss | sources |"
    yield "|---|---|---|---|---|---|"
    for number, recipe in enumerate(recipes, start=1):
        head, loss = recipe.model.head.get("_target_"), recipe.loss.get("_target_")
        backbone = hub_backbone(recipe) or "a checkpoint in a folder"
        yield f"| {number} | {recipe.name} | {head} | {backbone} | {loss} | {', '.join(recipe.data.sources)} |"
    yield ""
    yield from intended_use()
