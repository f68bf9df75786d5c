"""What a run reads, in numbers: steps, tokens, and the shapes of some groups of every source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from basereward.data.batching.plan import Plan
from basereward.data.encoding.lengths import Lengths
from basereward.data.module import PreferenceData
from basereward.data.schema.group import Split
from basereward.errors import DataError
from basereward.model.cost.memory import PassTokens
from basereward.model.cost.sequence_shapes import SequenceShape, group_shapes
from basereward.model.families.processing import recipe_encoder
from basereward.model.pooling import Pooling
from basereward.model.saving.made_checkpoint import backbone_path
from basereward.recipe.schema import Recipe
from basereward.training.build import build_data
from basereward.training.data_summary import lost_file
from basereward.training.probe import read_places

SAMPLED = 32  # groups of a source that are encoded, from its shortest to its longest
LOOKED_AT = 2048  # forward passes of which the largest is looked for


@dataclass(frozen=True)
class SourceLoad:
    """One source.

    Attributes:
        share: of the training groups.
        tokens: of a training group, the mean of all.
        sample: the rows of each sampled group.
        held_out: tokens of all groups that are validated, and that are tested.
        pooled: tokens of the training groups whose states a probe computes.
    """

    share: float
    tokens: float
    sample: tuple[tuple[SequenceShape, ...], ...]
    held_out: dict[Split, int]
    pooled: int


@dataclass(frozen=True)
class Workload:
    """One run; tokens are counted as the layout has them, without padding."""

    steps: int
    groups: int  # a step
    validations: int
    sources: dict[str, SourceLoad]
    largest: PassTokens


def workload(recipe: Recipe) -> Workload:
    """Reads the lengths of all groups and encodes a few; no model is loaded.

    Raises:
        DataError: the sources are streamed, so that no lengths are known.
        BaseRewardError: anything else that the recipe or the data have wrong, but for too many lost rows.
    """
    if recipe.data.streaming is not None:
        raise DataError("data.streaming knows no lengths before its sources are read; leave it out to count the cost")
    encoder = recipe_encoder(recipe, path=backbone_path(recipe.model.backbone))
    data = build_data(recipe, encoder=encoder, lost_file=lost_file(recipe.name), max_lost=1.0)
    data.setup()
    assert isinstance(data.plan, Plan)
    sources = {name: _source(data, name) for name, each in data.lengths["train"].items() if len(each)}
    largest = _largest(data, sources, Pooling(recipe.model.pooling))
    return Workload(data.plan.steps, data.plan.groups, data.plan.stages, sources, largest)


def _source(data: PreferenceData, name: str) -> SourceLoad:
    assert isinstance(data.plan, Plan)
    mixture, lengths = data.plan.mixture, data.lengths["train"][name]
    place = data.parts["train"].names.index(name)
    rows = _spread(lengths)
    encoded = [data.parts["train"][place, row] for row in rows]
    sample = tuple(tuple(group_shapes(group, layout=data.layout)) for group in encoded)
    in_layout = sum(shape.tokens for shapes in sample for shape in shapes) / int(lengths.tokens[rows].sum())
    held_out: dict[Split, int] = {
        split: round(int(data.lengths[split][name].tokens.sum()) * in_layout) for split in ("val", "test")
    }
    share = mixture.counts[name] / mixture.epoch_size
    mean = float(lengths.tokens.mean()) * in_layout
    pooled = sum(source == place for source, _ in read_places(data, "train"))
    return SourceLoad(share, mean, sample, held_out, round(pooled * mean))


def _spread(lengths: Lengths) -> list[int]:
    """Rows evenly spread over the groups in the order of their lengths."""
    number = min(SAMPLED, len(lengths))
    places = (np.arange(number) + 0.5) * len(lengths) / number
    return [int(row) for row in np.argsort(lengths.tokens, kind="stable")[places.astype(int)]]


def _largest(data: PreferenceData, sources: dict[str, SourceLoad], pooling: Pooling) -> PassTokens:
    """The forward pass of most tokens, with as many pooled ones and patches as so many tokens have on average."""
    plan = data.plan
    assert isinstance(plan, Plan)
    lengths = data.lengths["train"]
    tokens = [each.tokens for each in lengths.values()]
    total = plan.steps * plan.forwards_per_step
    looked_at = np.unique(np.linspace(0, total - 1, min(total, LOOKED_AT)).astype(int)).tolist()
    most = max(sum(int(tokens[source][row]) for source, row in plan.forward(index)) for index in looked_at)
    rows = [(load, shape) for load in sources.values() for shapes in load.sample for shape in shapes]
    weighed = [(load.share / len(load.sample), shape) for load, shape in rows]
    mean = sum(weight * shape.tokens for weight, shape in weighed)
    in_tree = sum(load.share * float(lengths[name].tokens.mean()) for name, load in sources.items())
    most = round(most * max(sum(load.share * load.tokens for load in sources.values()) / in_tree, 1.0))
    pooled = sum(weight * shape.pooled(pooling) for weight, shape in weighed) / mean
    patches = sum(weight * sum(t * h * w for t, h, w in shape.images) for weight, shape in weighed) / mean
    return PassTokens(most, round(most * pooled), round(most * patches))
