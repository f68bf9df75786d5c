"""The groups of each training step, against counts and invariants."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from basereward.data.batching.plan import Modality, Place, Plan, StageSampler
from basereward.data.encoding.lengths import Lengths
from basereward.data.mixing.mixture import Mixture
from basereward.errors import RecipeError

SIZES = {"a": 10, "b": 6}
EVERY_GROUP = Counter([(0, row) for row in range(10)] + [(1, row) for row in range(6)])


def plan(*, seed: int = 0, **settings: Any) -> Plan:
    """Return a plan over two sources of 10 and 6 groups, by default with 4 groups per step."""
    return Plan(Mixture(SIZES, seed=seed), **({"groups": 4, "groups_per_forward": 1} | settings))


def groups_of_step(training_plan: Plan, step: int) -> list[Place]:
    """Return all groups of a step, over its forward passes and ranks, in the order of the positions."""
    first = step * training_plan.forwards_per_step
    forwards = range(first, first + training_plan.forwards_per_step)
    return [
        place
        for index in forwards
        for rank in range(training_plan.ranks)
        for place in training_plan.forward(index, rank=rank)
    ]


@pytest.mark.parametrize("epochs", [1, 3])
def test_every_group_is_used_once_per_epoch(epochs: int) -> None:
    """The steps of each epoch train on every group of every source once."""
    training_plan = plan(epochs=epochs)
    assert training_plan.steps == 4 * epochs
    for epoch in range(epochs):
        steps = range(4 * epoch, 4 * epoch + 4)
        assert Counter(place for step in steps for place in groups_of_step(training_plan, step)) == EVERY_GROUP


@pytest.mark.parametrize(("ranks", "groups_per_forward"), [(1, 4), (2, 1), (2, 2), (4, 1)])
def test_ranks_and_forward_passes_share_a_step(ranks: int, groups_per_forward: int) -> None:
    """A step has the same groups for any number of ranks and forward passes, each group once."""
    training_plan = plan(ranks=ranks, groups_per_forward=groups_per_forward)
    assert training_plan.forwards_per_step == 4 // (ranks * groups_per_forward)
    for step in range(training_plan.steps):
        assert groups_of_step(training_plan, step) == groups_of_step(plan(), step)
        assert len(training_plan.forward(step, rank=ranks - 1)) == groups_per_forward


def test_last_step_is_filled_from_the_next_epoch() -> None:
    """16 groups with 6 per step are three steps; the last one takes two groups of the next epoch."""
    training_plan = plan(groups=6)
    assert training_plan.steps == 3
    trained = [place for step in range(3) for place in groups_of_step(training_plan, step)]
    assert Counter(trained[:16]) == EVERY_GROUP
    sources, rows = Mixture(SIZES).order(1)
    assert trained[16:] == [(int(sources[i]), int(rows[i])) for i in range(2)]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"epochs": 0.5}, 2),
        ({"epochs": 0.3}, 2),
        ({"epochs": 1.5}, 6),
        ({"steps": 7}, 7),
        ({"steps": 1, "epochs": 9}, 1),
    ],
)
def test_number_of_steps(settings: dict[str, Any], steps: int) -> None:
    """Fractions of epochs are rounded up to whole steps; `steps` overrides `epochs`."""
    assert plan(**settings).steps == steps


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 5, 9, 50])
def test_stages_cover_all_forward_passes(stages: int) -> None:
    """The stages have every forward pass once, in whole steps, and their lengths differ by at most one step."""
    training_plan = plan(steps=9, groups_per_forward=2, stages=stages)
    assert training_plan.stages == min(stages, 9)
    forwards = [index for stage in range(training_plan.stages) for index in training_plan.stage(stage)]
    assert forwards == list(range(9 * 2))
    lengths = [len(training_plan.stage(stage)) for stage in range(training_plan.stages)]
    assert all(length % 2 == 0 and length > 0 for length in lengths)
    assert max(lengths) - min(lengths) <= 2


def test_forward_pass_does_not_depend_on_earlier_ones() -> None:
    """A pass has the same groups in any order of calls and in a new plan; another seed has others."""
    training_plan = plan(epochs=5)
    in_turn = [training_plan.forward(index) for index in range(40)]
    assert plan(epochs=5).forward(39) == in_turn[39]
    assert [plan(epochs=5).forward(index) for index in reversed(range(40))] == in_turn[::-1]
    assert [plan(epochs=5, seed=1).forward(index) for index in range(40)] != in_turn


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("done", [4, 5, 6, 7, 8])
def test_resumed_stage_yields_the_rest(rank: int, done: int) -> None:
    """A sampler that starts inside its stage yields the remaining passes, and its length is that of the whole stage."""
    training_plan = plan(steps=4, groups_per_forward=1, ranks=2, stages=2)
    whole_stage = StageSampler(training_plan, 1, rank=rank, done=0)
    resumed = StageSampler(training_plan, 1, rank=rank, done=done)
    assert training_plan.stage(1) == range(4, 8)
    assert list(whole_stage) == [training_plan.forward(index, rank=rank) for index in range(4, 8)]
    assert list(resumed) == list(whole_stage)[done - 4 :]
    assert len(resumed) == len(whole_stage) == 4


def test_sampler_ignores_passes_of_other_stages() -> None:
    """Passes done before the stage leave it whole; passes done after it leave nothing."""
    training_plan = plan(steps=4, stages=2)
    assert list(StageSampler(training_plan, 1, rank=0, done=3)) == [
        training_plan.forward(index) for index in training_plan.stage(1)
    ]
    assert list(StageSampler(training_plan, 0, rank=0, done=100)) == []


def lengths(*, seed: int = 0) -> dict[str, Lengths]:
    """Return lengths where source a has images and long groups, and b has neither."""
    rng = np.random.default_rng(seed)
    min_tokens = {"a": 60, "b": 5}
    return {
        name: Lengths(
            index=np.arange(size),
            tokens=rng.integers(min_tokens[name], 100, size).astype(np.int32),
            images=np.full(size, int(name == "a"), np.int32),
        )
        for name, size in SIZES.items()
    }


def all_forwards(training_plan: Plan) -> list[list[Place]]:
    """Return the groups of every forward pass on every rank."""
    indices = range(training_plan.steps * training_plan.forwards_per_step)
    return [training_plan.forward(index, rank=rank) for index in indices for rank in range(training_plan.ranks)]


@pytest.mark.parametrize("modality", ["mixed", "separate"])
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_token_budget_is_kept_and_no_pass_is_empty(seed: int, ranks: int, modality: Modality) -> None:
    """Steps have the same groups as without a budget, in the same number of passes on every rank."""
    token_lengths = lengths(seed=seed)
    settings: dict[str, Any] = {"groups": 8, "epochs": 3, "seed": seed}
    try:
        training_plan = plan(budget=210, modality=modality, lengths=token_lengths, ranks=ranks, **settings)
    except RecipeError:
        assert modality == "separate"
        assert ranks == 2  # a step with one group of a kind has none for the other rank
        return
    without_budget = plan(groups_per_forward=8, **settings)
    for step in range(training_plan.steps):
        assert Counter(groups_of_step(training_plan, step)) == Counter(groups_of_step(without_budget, step))
    for places in all_forwards(training_plan):
        assert places
        assert sum(training_plan.tokens(place) for place in places) <= 210
        if modality == "separate":
            assert len({source for source, _ in places}) == 1


def test_large_budget_gives_one_pass() -> None:
    """The plan uses as few passes as the budget allows."""
    assert plan(budget=10_000, lengths=lengths()).forwards_per_step == 1


def test_separate_modalities_without_a_budget() -> None:
    """The number of passes follows `groups_per_forward`, and each pass has one modality."""
    training_plan = plan(groups=8, groups_per_forward=4, modality="separate", lengths=lengths())
    assert training_plan.forwards_per_step == 2
    assert all(len({source for source, _ in places}) == 1 for places in all_forwards(training_plan))


@pytest.mark.parametrize("done", [0, 3, 7])
def test_resumed_budget_plan_yields_the_rest(done: int) -> None:
    """A stage that starts inside yields the passes that a whole run has from there."""
    settings: dict[str, Any] = {"groups": 8, "epochs": 3, "budget": 210, "lengths": lengths()}
    passes = list(StageSampler(plan(**settings), 0, rank=0, done=0))
    assert list(StageSampler(plan(**settings), 0, rank=0, done=done)) == passes[done:]
