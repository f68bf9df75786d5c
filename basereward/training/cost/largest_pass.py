"""The largest forward pass of a run, counted from a sample of its groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from basereward.data.batching.plan import Plan
from basereward.data.encoding.lengths import Lengths
from basereward.data.module import PreferenceData
from basereward.data.schema.group import Split
from basereward.model.cost.memory import PassTokens
from basereward.model.cost.sequence_shapes import SequenceShape, group_shapes
from basereward.model.pooling import Pooling

SAMPLED, SEARCHED = 4, 128
"""Groups of a source that are encoded, and forward passes that are searched, so that a second is enough."""
PASSES_SEARCHED = 2048
"""Forward passes among which the largest one is searched; a plan may have millions."""


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


def largest_pass(data: PreferenceData, pooling: Pooling, *, sampled: int, searched: int) -> PassTokens:
    """Count the largest forward pass of a run from a small sample, within a second.

    Args:
        data: after `setup`, with a plan.
        pooling: of the recipe.
        sampled: groups of a source that are encoded.
        searched: forward passes among which the largest one is searched.
    """
    lengths_by_source = data.lengths["train"].items()
    sources = {name: sampled_source(data, name, sampled=sampled) for name, lengths in lengths_by_source if lengths}
    return largest_of(data, sources, pooling, searched=searched)


def sampled_source(data: PreferenceData, name: str, *, sampled: int) -> SourceLoad:
    """What a run reads of a source, without held-out and pooled tokens.

    Args:
        data: after `setup`, with a plan.
        name: of the source.
        sampled: groups that are encoded.
    """
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


def largest_of(
    data: PreferenceData, sources: dict[str, SourceLoad], pooling: Pooling, *, searched: int = PASSES_SEARCHED
) -> PassTokens:
    """Count the largest forward pass: its tokens, and the pooled tokens and patches of so many tokens on average.

    Args:
        data: after `setup`, with a plan.
        sources: what the run reads of each source.
        pooling: of the recipe.
        searched: forward passes among which the largest one is searched.
    """
    # The share of a sampled group among the training groups, and one of its rows.
    rows: list[tuple[float, SequenceShape]] = []
    for load in sources.values():
        for shapes in load.sample:
            rows += [(load.share / len(load.sample), shape) for shape in shapes]
    mean_tokens = sum(weight * shape.tokens for weight, shape in rows)
    mean_pooled = sum(weight * shape.pooled(pooling) for weight, shape in rows)
    mean_patches = sum(weight * _patches(shape) for weight, shape in rows)
    # From stored lengths to those of the layout; see `sampled_source`.
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
