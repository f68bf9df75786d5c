"""Counts what a run reads: steps, tokens, and the shapes of some groups of every source."""

from __future__ import annotations

from dataclasses import dataclass, replace

from basereward.data.batching.plan import Plan
from basereward.data.module import PreferenceData
from basereward.data.schema.group import Split
from basereward.errors import DataError
from basereward.model.cost.memory import PassTokens
from basereward.model.families.processing import recipe_encoder
from basereward.model.pooling import Pooling
from basereward.model.saving.made_checkpoint import backbone_path
from basereward.recipe.schema import Recipe
from basereward.training.build import build_data
from basereward.training.cost.largest_pass import SourceLoad, largest_of, sampled_source
from basereward.training.data_summary import preview_rejections_file
from basereward.training.probe import read_places

SAMPLED = 32
"""Groups of a source that are encoded, from its shortest to its longest."""
HELD_OUT: tuple[Split, ...] = ("val", "test")
"""Splits that are scored and not trained on."""


@dataclass(frozen=True)
class Workload:
    """What one run reads. Tokens are counted in the layout of the batches, without padding.

    Attributes:
        steps: optimizer steps.
        groups: groups per step.
        validations: number of validations.
        sources: by name.
        largest: the largest forward pass, on which the peak memory depends.

    >>> largest = PassTokens(tokens=18, pooled=4)
    >>> Workload(steps=10, groups=2, validations=1, sources={}, largest=largest).steps
    10
    """

    steps: int
    groups: int
    validations: int
    sources: dict[str, SourceLoad]
    largest: PassTokens


def workload(recipe: Recipe) -> Workload:
    """Read the lengths of all groups, and encode a few; no model is loaded.

    Args:
        recipe: of the run.

    Raises:
        DataError: the sources are streamed, so that no lengths are known.
        BaseRewardError: the recipe or the data have another error. Too many rejected rows are none here.
    """
    if recipe.data.streaming is not None:
        raise DataError(
            "the lengths of streamed sources are unknown before they are read; remove data.streaming to count the cost"
        )
    encoder = recipe_encoder(recipe, path=backbone_path(recipe.model.backbone))
    data = build_data(recipe, encoder=encoder, rejections_file=preview_rejections_file(recipe.name), max_lost=1.0)
    data.setup()
    assert isinstance(data.plan, Plan)
    sources = {name: _source(data, name) for name, lengths in data.lengths["train"].items() if len(lengths)}
    largest = largest_of(data, sources, Pooling(recipe.model.pooling))
    return Workload(data.plan.steps, data.plan.groups, data.plan.stages, sources, largest)


def _source(data: PreferenceData, name: str) -> SourceLoad:
    load = sampled_source(data, name, sampled=SAMPLED)
    layout_factor = load.tokens / float(data.lengths["train"][name].tokens.mean())
    held_out: dict[Split, int] = {}
    for split in HELD_OUT:
        held_out[split] = round(int(data.lengths[split][name].tokens.sum()) * layout_factor)
    source_index = data.parts["train"].names.index(name)
    num_pooled = sum(place_source == source_index for place_source, _ in read_places(data, "train"))
    return replace(load, held_out=held_out, pooled=round(num_pooled * load.tokens))
