"""Counts what a run reads: steps, tokens, and the shapes of some groups of every source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from basereward.training.data_summary import preview_rejections_file
from basereward.training.probe import read_places

SAMPLED = 32
"""Groups of a source that are encoded, from its shortest to its longest."""
PASSES_SEARCHED = 2048
"""Forward passes among which the largest one is searched; a plan may have millions."""
HELD_OUT: tuple[Split, ...] = ("val", "test")
"""Splits that are scored and not trained on."""


@dataclass(frozen=True)
class SourceLoad:
    """What a run reads of one source.

    Attributes:
        share: share of the training groups.
        tokens: mean number of tokens of a training group.
        sample: the rows of each sampled group.
        held_out: tokens of all validation groups, and of all test groups.
        pooled: tokens of the training groups whose states a probe computes.

    >>> load = SourceLoad(share=1.0, tokens=9.0, sample=((SequenceShape(5, (2, 2)),),), held_out={"val": 90}, pooled=0)
    >>> load.sample[0][0].tokens
    9
    """

    share: float
    tokens: float
    sample: tuple[tuple[SequenceShape, ...], ...]
    held_out: dict[Split, int]
    pooled: int


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
    largest = _largest(data, sources, Pooling(recipe.model.pooling))
    return Workload(data.plan.steps, data.plan.groups, data.plan.stages, sources, largest)


def largest_pass(data: PreferenceData, pooling: Pooling, *, sampled: int, searched: int) -> PassTokens:
    """Count the largest forward pass of a run from a small sample, within a second.

    Args:
        data: after `setup`, with a plan.
        pooling: of the recipe.
        sampled: groups of a source that are encoded.
        searched: forward passes among which the largest one is searched.
    """
    lengths_by_source = data.lengths["train"].items()
    sources = {name: _sampled_source(data, name, sampled=sampled) for name, lengths in lengths_by_source if lengths}
    return _largest(data, sources, pooling, searched=searched)


def _source(data: PreferenceData, name: str) -> SourceLoad:
    load = _sampled_source(data, name, sampled=SAMPLED)
    layout_factor = load.tokens / float(data.lengths["train"][name].tokens.mean())
    held_out: dict[Split, int] = {}
    for split in HELD_OUT:
        held_out[split] = round(int(data.lengths[split][name].tokens.sum()) * layout_factor)
    source_index = data.parts["train"].names.index(name)
    num_pooled = sum(place_source == source_index for place_source, _ in read_places(data, "train"))
    return replace(load, held_out=held_out, pooled=round(num_pooled * load.tokens))


def _sampled_source(data: PreferenceData, name: str, *, sampled: int) -> SourceLoad:
    """What a run reads of a source, without held-out and pooled tokens."""
    assert isinstance(data.plan, Plan)
    mixture, lengths = data.plan.mixture, data.lengths["train"][name]
    source_index = data.parts["train"].names.index(name)
    rows = _spread(lengths, num_rows=min(sampled, len(lengths)))
    sample = []
    for row in rows:
        encoded = data.parts["train"][source_index, row]
        sample.append(tuple(group_shapes(encoded, layout=data.layout)))
    # Only the sample is encoded. It gives the factor from stored lengths, which are known for all groups, to lengths in
    # the layout: stored lengths count the prefix of a group once, and the plain layout repeats it for every response.
    sampled_tokens = sum(map(_num_tokens, sample))
    layout_factor = sampled_tokens / int(lengths.tokens[rows].sum())
    share = mixture.counts[name] / mixture.epoch_size
    mean_tokens = float(lengths.tokens.mean()) * layout_factor
    return SourceLoad(share, mean_tokens, tuple(sample), held_out={}, pooled=0)


def _spread(lengths: Lengths, *, num_rows: int) -> list[int]:
    """Rows that are evenly spread over the groups in the order of their lengths."""
    # The middle of each of `num_rows` equal parts: the ends alone would over-represent the extreme lengths.
    ranks = (np.arange(num_rows) + 0.5) * len(lengths) / num_rows
    return [int(row) for row in np.argsort(lengths.tokens, kind="stable")[ranks.astype(int)]]


def _largest(
    data: PreferenceData, sources: dict[str, SourceLoad], pooling: Pooling, *, searched: int = PASSES_SEARCHED
) -> PassTokens:
    """The largest forward pass: its tokens, and the pooled tokens and patches that so many tokens have on average."""
    # The share of a sampled group among the training groups, and one of its rows.
    rows: list[tuple[float, SequenceShape]] = []
    for load in sources.values():
        for shapes in load.sample:
            rows += [(load.share / len(load.sample), shape) for shape in shapes]
    mean_tokens = sum(weight * shape.tokens for weight, shape in rows)
    mean_pooled = sum(weight * shape.pooled(pooling) for weight, shape in rows)
    mean_patches = sum(weight * _patches(shape) for weight, shape in rows)
    # From stored lengths to those of the layout; see `_source`.
    in_layout = sum(load.share * load.tokens for load in sources.values())
    stored = sum(load.share * float(data.lengths["train"][name].tokens.mean()) for name, load in sources.items())
    # At least 1: no layout has fewer tokens than the stored lengths count.
    tokens = round(_most_stored_tokens(data, searched=searched) * max(in_layout / stored, 1.0))
    return PassTokens(tokens, round(tokens * (mean_pooled / mean_tokens)), round(tokens * (mean_patches / mean_tokens)))


def _most_stored_tokens(data: PreferenceData, *, searched: int) -> int:
    """The stored length of the largest among evenly spread forward passes."""
    plan = data.plan
    assert isinstance(plan, Plan)
    tokens = [lengths.tokens for lengths in data.lengths["train"].values()]
    total = plan.steps * plan.forwards_per_step
    indices = np.unique(np.linspace(0, total - 1, min(total, searched)).astype(int)).tolist()
    most = 0
    for index in indices:
        most = max(most, sum(int(tokens[source][row]) for source, row in plan.forward(index)))
    return most


def _num_tokens(shapes: Sequence[SequenceShape]) -> int:
    return sum(shape.tokens for shape in shapes)


def _patches(shape: SequenceShape) -> int:
    """Patches of all images of a row."""
    return sum(t * h * w for t, h, w in shape.images)
