"""Which groups every step trains on, counted out."""

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
    """A plan over two sources of 10 and 6 groups, 4 groups a step unless told otherwise."""
    return Plan(Mixture(SIZES, seed=seed), **({"groups": 4, "groups_per_forward": 1} | settings))


def groups_of_step(made: Plan, step: int) -> list[Place]:
    """All groups of a step, over its forward passes and ranks, in the order of the positions."""
    first = step * made.forwards_per_step
    forwards = range(first, first + made.forwards_per_step)
    return [place for index in forwards for rank in range(made.ranks) for place in made.forward(index, rank=rank)]


@pytest.mark.parametrize("epochs", [1, 3])
def test_every_group_comes_once_an_epoch(epochs: int) -> None:
    """Over the steps of each epoch every group of every source is trained on once."""
    made = plan(epochs=epochs)
    assert made.steps == 4 * epochs
    for epoch in range(epochs):
        steps = range(4 * epoch, 4 * epoch + 4)
        assert Counter(place for step in steps for place in groups_of_step(made, step)) == EVERY_GROUP


@pytest.mark.parametrize(("ranks", "groups_per_forward"), [(1, 4), (2, 1), (2, 2), (4, 1)])
def test_ranks_and_forward_passes_part_a_step_among_them(ranks: int, groups_per_forward: int) -> None:
    """A step trains on the same groups however it is split over ranks and forward passes, each group in one place."""
    made = plan(ranks=ranks, groups_per_forward=groups_per_forward)
    assert made.forwards_per_step == 4 // (ranks * groups_per_forward)
    for step in range(made.steps):
        assert groups_of_step(made, step) == groups_of_step(plan(), step)
        assert len(made.forward(step, rank=ranks - 1)) == groups_per_forward


def test_the_last_step_is_filled_up_from_the_next_epoch() -> None:
    """16 groups at 6 a step are three steps; the last takes two groups of the next epoch's order, none is left out."""
    made = plan(groups=6)
    assert made.steps == 3
    trained = [place for step in range(3) for place in groups_of_step(made, step)]
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
def test_the_number_of_steps(settings: dict[str, Any], steps: int) -> None:
    """Epochs, or parts of them, are rounded up to whole steps; a number of steps overrides them."""
    assert plan(**settings).steps == steps


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 5, 9, 50])
def test_stages_cover_the_run(stages: int) -> None:
    """Stage after stage has every forward pass once, in whole steps; the stages' lengths differ by a step at most."""
    made = plan(steps=9, groups_per_forward=2, stages=stages)
    assert made.stages == min(stages, 9)
    forwards = [index for stage in range(made.stages) for index in made.stage(stage)]
    assert forwards == list(range(9 * 2))
    lengths = [len(made.stage(stage)) for stage in range(made.stages)]
    assert all(length % 2 == 0 and length > 0 for length in lengths)
    assert max(lengths) - min(lengths) <= 2


def test_a_forward_pass_does_not_depend_on_those_before() -> None:
    """Asked for at once or in turn, a pass has the same groups; so has a plan made anew; another seed has others."""
    made = plan(epochs=5)
    in_turn = [made.forward(index) for index in range(40)]
    assert plan(epochs=5).forward(39) == in_turn[39]
    assert [plan(epochs=5).forward(index) for index in reversed(range(40))] == in_turn[::-1]
    assert [plan(epochs=5, seed=1).forward(index) for index in range(40)] != in_turn


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("done", [4, 5, 6, 7, 8])
def test_a_stopped_stage_goes_on_with_exactly_the_rest(rank: int, done: int) -> None:
    """A sampler that starts inside its stage yields what the whole one yields from there, and counts the whole."""
    made = plan(steps=4, groups_per_forward=1, ranks=2, stages=2)
    whole = StageSampler(made, 1, rank=rank, done=0)
    rest = StageSampler(made, 1, rank=rank, done=done)
    assert made.stage(1) == range(4, 8)
    assert list(whole) == [made.forward(index, rank=rank) for index in range(4, 8)]
    assert list(rest) == list(whole)[done - 4 :]
    assert len(rest) == len(whole) == 4


def test_a_sampler_begins_with_its_own_stage() -> None:
    """Passes done before the stage leave it whole, passes beyond it leave nothing of it."""
    made = plan(steps=4, stages=2)
    assert list(StageSampler(made, 1, rank=0, done=3)) == [made.forward(index) for index in made.stage(1)]
    assert list(StageSampler(made, 0, rank=0, done=100)) == []


def lengths(*, seed: int = 0) -> dict[str, Lengths]:
    """Source a has images and long groups, b neither."""
    rng = np.random.default_rng(seed)
    low = {"a": 60, "b": 5}
    return {
        name: Lengths(
            index=np.arange(size),
            tokens=rng.integers(low[name], 100, size).astype(np.int32),
            images=np.full(size, int(name == "a"), np.int32),
        )
        for name, size in SIZES.items()
    }


def all_forwards(made: Plan) -> list[list[Place]]:
    """The groups of every pass on every rank."""
    indices = range(made.steps * made.forwards_per_step)
    return [made.forward(index, rank=rank) for index in indices for rank in range(made.ranks)]


@pytest.mark.parametrize("modality", ["mixed", "separate"])
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_no_pass_is_above_the_budget_and_none_is_empty(seed: int, ranks: int, modality: Modality) -> None:
    """Steps train on the groups that they would train on without a budget, in as many passes on every rank."""
    known = lengths(seed=seed)
    settings: dict[str, Any] = {"groups": 8, "epochs": 3, "seed": seed}
    try:
        made = plan(budget=210, modality=modality, lengths=known, ranks=ranks, **settings)
    except RecipeError:
        assert modality == "separate"
        assert ranks == 2  # a step with one group of a kind has none for the other rank
        return
    whole = plan(groups_per_forward=8, **settings)
    for step in range(made.steps):
        assert Counter(groups_of_step(made, step)) == Counter(groups_of_step(whole, step))
    for places in all_forwards(made):
        assert places
        assert sum(made.tokens(place) for place in places) <= 210
        if modality == "separate":
            assert len({source for source, _ in places}) == 1


def test_a_budget_for_everything_is_one_pass() -> None:
    """The fewest passes that fit are taken."""
    assert plan(budget=10_000, lengths=lengths()).forwards_per_step == 1


def test_separate_modalities_without_a_budget() -> None:
    """Passes are about as many as asked for, and have one kind of group each."""
    made = plan(groups=8, groups_per_forward=4, modality="separate", lengths=lengths())
    assert made.forwards_per_step == 2
    assert all(len({source for source, _ in places}) == 1 for places in all_forwards(made))


@pytest.mark.parametrize("begin", [0, 3, 7])
def test_a_plan_is_entered_anywhere(begin: int) -> None:
    """A stage that starts inside gives the passes that a whole run gives from there."""
    settings: dict[str, Any] = {"groups": 8, "epochs": 3, "budget": 210, "lengths": lengths()}
    passes = list(StageSampler(plan(**settings), 0, rank=0, done=0))
    assert list(StageSampler(plan(**settings), 0, rank=0, done=begin)) == passes[begin:]
