"""Sections of an experiment for single profiles, and grid axes of partial recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from basereward.recipe import find_faults, load_cells, load_recipe
from tests.recipe.conftest import EXPERIMENT, PROFILE

Write = Callable[..., Path]
GRID = "grid: {optimizer.lr: [1e-5, 1e-6]}\n"


def test_section_applies_to_its_profile_only(experiments: Write) -> None:
    """Other profiles use the experiment's own values; the command line wins over both."""
    section = "profiles:\n  tiny: {optimizer: {lr: 0.5}}\n"
    experiments(profiles__large=PROFILE, one=EXPERIMENT + "optimizer: {lr: 0.1, eps: 0.2}\n" + section)
    tiny, large = (load_recipe("one", profile=name).optimizer for name in ("tiny", "large"))
    assert (tiny.lr, tiny.eps) == (0.5, 0.2)
    assert (large.lr, large.eps) == (0.1, 0.2)
    assert load_recipe("one", overrides=["optimizer.lr=0.7"]).optimizer.lr == 0.7


def test_grid_of_a_section_replaces_the_grid(experiments: Write) -> None:
    """Joining the axes would multiply the cells."""
    experiments(
        profiles__large=PROFILE, one=EXPERIMENT + GRID + "profiles: {tiny: {grid: {trainer.clip: [1, 2, 3]}}}\n"
    )
    assert [cell.name for cell in load_cells("one")] == ["clip=1", "clip=2", "clip=3"]
    assert [cell.name for cell in load_cells("one", profile="large")] == ["lr=1e-05", "lr=1e-06"]


def test_section_can_have_includes_and_seeds(experiments: Write) -> None:
    """Like any mapping of a file."""
    experiments(
        profiles__large=PROFILE,
        parts__slow="# Slow.\nlr: 0.25\n",
        one=EXPERIMENT + "profiles: {tiny: {optimizer: {include: parts/slow}, seeds: [3, 4]}}\n",
    )
    cells = load_cells("one")
    assert [(cell.name, cell.recipe.seeds.init, cell.recipe.optimizer.lr) for cell in cells] == [
        ("seed=3", 3, 0.25),
        ("seed=4", 4, 0.25),
    ]


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        pytest.param("profiles: {tinny: {}}", "profiles.tinny", "did you mean 'tiny'?", id="unknown"),
        pytest.param("profiles: [tiny]", "profiles", "expected a mapping of profiles' names", id="list"),
        pytest.param("profiles: {tiny: 3}", "profiles", "expected a mapping of profiles' names", id="value"),
        pytest.param("profiles: {tiny: {optimiser: {}}}", "optimiser", "did you mean 'optimizer'?", id="typo"),
    ],
)
def test_faults_of_sections_name_the_key(experiments: Write, text: str, key: str, message: str) -> None:
    """The message says what is allowed."""
    experiments(one=f"{EXPERIMENT}{text}\n")
    _, faults = find_faults("one")
    (fault,) = faults
    assert fault.key == key
    assert message in fault.message


def test_recipe_axis_changes_several_sections(experiments: Write) -> None:
    """Each point has one label; other axes are applied on top."""
    recipe_axis = "recipe: {a: {}, b: {optimizer: {lr: 0.5}, trainer: {clip: 7}}}"
    experiments(one=f"{EXPERIMENT}grid: {{{recipe_axis}, optimizer.eps: [1, 2]}}\n")
    cells = [(cell.name, cell.recipe.optimizer.lr, cell.recipe.trainer.clip) for cell in load_cells("one")]
    assert cells == [
        ("recipe=a,eps=1", 1e-5, 1.0),
        ("recipe=a,eps=2", 1e-5, 1.0),
        ("recipe=b,eps=1", 0.5, 7.0),
        ("recipe=b,eps=2", 0.5, 7.0),
    ]


def test_recipe_axis_needs_labels(experiments: Write) -> None:
    """A list, or a point that is no mapping, is a fault; a typing error inside is reported with its cell."""
    for bad_axis in ("[{}, {}]", "{a: 1}"):
        experiments(one=f"{EXPERIMENT}grid: {{recipe: {bad_axis}}}\n")
        _, faults = find_faults("one")
        assert [fault.key for fault in faults] == ["grid.recipe"]
    experiments(one=f"{EXPERIMENT}grid: {{recipe: {{a: {{}}, b: {{optimiser: {{lr: 1}}}}}}}}\n")
    _, faults = find_faults("one")
    assert [(fault.cell, fault.key) for fault in faults] == [("recipe=b", "optimiser")]
