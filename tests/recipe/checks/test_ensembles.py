"""The section `ensembles` of experiments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from basereward.recipe import find_experiment, load_cells, load_experiment
from basereward.recipe.schema import EnsembleRecipe
from tests.recipe.conftest import EXPERIMENT

Write = Callable[..., Path]
GRID = "grid: {optimizer.lr: {low: 1e-6, high: 1e-5}}\nseeds: [0, 1]\n"
CELLS = ["lr=low,seed=0", "lr=low,seed=1", "lr=high,seed=0", "lr=high,seed=1"]


def test_members_are_names_or_patterns(experiments: Write) -> None:
    """The default is all cells in order, each once; the recipes of the cells do not change."""
    section = "ensembles: {all: {}, low: {how: worst, members: ['lr=low*', 'lr=low,seed=0'], k: 2}}\n"
    experiments(one=EXPERIMENT + GRID + section)
    experiment = load_experiment("one")
    assert experiment.ensembles == {
        "all": EnsembleRecipe(members=CELLS),
        "low": EnsembleRecipe(how="worst", members=CELLS[:2], k=2.0),
    }
    experiments(two=EXPERIMENT + GRID)
    assert [cell.recipe.optimizer for cell in experiment.cells] == [cell.recipe.optimizer for cell in load_cells("two")]


def test_text_can_have_its_own_members(experiments: Write) -> None:
    """Then one member for images is enough."""
    experiments(one=f"{EXPERIMENT}{GRID}ensembles: {{routed: {{members: [{CELLS[0]!r}], text: [{CELLS[3]!r}]}}}}\n")
    assert load_experiment("one").ensembles["routed"] == EnsembleRecipe(members=CELLS[:1], text=CELLS[3:])


def test_null_removes_an_ensemble(experiments: Write) -> None:
    """An override can remove an ensemble of the file."""
    experiments(one=EXPERIMENT + GRID + "ensembles: {all: {}, worst: {how: worst}}\n")
    assert list(load_experiment("one", overrides=["ensembles.all=null"]).ensembles) == ["worst"]


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        pytest.param("{a: {how: meen}}", "ensembles.a.how", "'mean'", id="way"),
        pytest.param("{a: {hwo: mean}}", "ensembles.a.hwo", "did you mean 'how'?", id="key"),
        pytest.param("{a: {members: ['lr=lwo*']}}", "ensembles.a.members", "unknown cell 'lr=lwo*'", id="member"),
        pytest.param("{a: {members: ['lr=low,seed=0']}}", "ensembles.a.members", "two members or more", id="alone"),
        pytest.param("{a: {pairs: 0}}", "ensembles.a.pairs", "must be at least 1; 0 given", id="pairs"),
        pytest.param("{a: {k: -1}}", "ensembles.a.k", "at least 0; -1 given", id="k"),
        pytest.param("{a: {k: .nan}}", "ensembles.a.k", "a finite number of at least 0; nan given", id="k-nan"),
        pytest.param("{a: {k: .inf}}", "ensembles.a.k", "a finite number of at least 0; inf given", id="k-inf"),
        pytest.param("{a: {seed: -1}}", "ensembles.a.seed", "from 0 to 4294967295; -1 given", id="seed"),
        pytest.param(
            "{a: {how: soup, text: ['lr=low*']}}", "ensembles.a.text", "a soup is one model", id="soup-for-text"
        ),
        pytest.param("{a: {members: 3}}", "ensembles.a.members", "list", id="type"),
        pytest.param("{'lr=low,seed=0': {}}", "ensembles.lr=low,seed=0", "a cell has this name", id="name"),
        pytest.param("{'lr=low': {}}", "ensembles.lr=low", "the cells of one recipe", id="recipe"),
        pytest.param("[mean]", "ensembles", "expected a mapping of names", id="list"),
        pytest.param("{a: mean}", "ensembles.a", "expected a mapping of how", id="value"),
    ],
)
def test_faults_name_the_key(experiments: Write, section: str, key: str, message: str) -> None:
    """There is one fault, at its key, and the message says what is allowed."""
    experiments(one=f"{EXPERIMENT}{GRID}ensembles: {section}\n")
    _, faults = find_experiment("one")
    (fault,) = faults
    assert fault.key == key
    assert message in fault.message


@pytest.mark.parametrize("seeds", ["seeds: [0, 1]", "grid: {seeds.init: [0, 1]}"])
def test_ensemble_of_seeds_must_not_have_the_experiment_name(experiments: Write, seeds: str) -> None:
    """If only seeds vary, the recipe of the cells has this name; if something else varies, the name is free."""
    section = "ensembles: {one: {}}\n"
    experiments(one=f"{EXPERIMENT}{seeds}\n{section}")
    _, (fault,) = find_experiment("one")
    assert fault.key == "ensembles.one"
    assert "the cells of one recipe" in fault.message
    experiments(one=EXPERIMENT + GRID + section)
    assert list(load_experiment("one").ensembles) == ["one"]
