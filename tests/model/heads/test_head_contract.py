"""What a head must give is checked where a model is built; what kind it is, is not decided by a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from basereward import load_recipe
from basereward.data.batching.collate import collate
from basereward.errors import ModelError
from basereward.model.cost.meta_model import outline
from basereward.model.heads.contracts import is_generative
from basereward.model.reward_model import build_model
from basereward.recipe.schema import BackboneRecipe, ModelRecipe
from basereward.recipe.trust import trusting
from tests.helpers.support import encoded_group

FolderOf = Callable[[str], Path]


@pytest.fixture(autouse=True)
def trusted() -> Iterator[None]:
    """Heads from outside of the package run with the caller's word."""
    with trusting(True):
        yield


def recipe(head: str, folder: Path) -> ModelRecipe:
    """A model with one of `odd_heads`."""
    return ModelRecipe(backbone=BackboneRecipe(path=str(folder)), head={"_target_": f"tests.helpers.odd_heads.{head}"})


@pytest.mark.parametrize(
    ("head", "gives"),
    [
        ("ColumnHead", r"\(2, 1\)"),
        ("OneScoreHead", r"\(\)"),
        ("RankHead", "int64"),
        ("NarrowHead", "64 numbers"),
        ("AssertingHead", "64 numbers each: AssertionError"),
        ("StubbornHead", "64 numbers each: not today"),
    ],
)
def test_a_head_that_does_not_give_one_score_a_state_is_refused(head: str, gives: str, folder_of: FolderOf) -> None:
    """When the model is built, with its weights or in outline; the error says what it gave and what is needed."""
    folder = folder_of("llama")
    with pytest.raises(ModelError, match=rf"{head}.*{gives}"):
        build_model(recipe(head, folder), path=str(folder), seed=0)
    with pytest.raises(ModelError, match=rf"{head}.*{gives}"):
        outline(recipe(head, folder), path=str(folder))


def test_a_scalar_head_may_have_a_helper_of_any_name(folder_of: FolderOf) -> None:
    """A method `judge` makes no generative head: the recipe is taken with any pooling, and the model scores. The check
    leaves the head in training and torch's generator as it was."""
    folder = folder_of("llama")
    head = "model.head={_target_: tests.helpers.odd_heads.JudgingHead}"
    load_recipe("basereward", profile="tiny", overrides=[head, "model.pooling=mean"])
    torch.manual_seed(7)
    before = torch.get_rng_state()
    model = build_model(recipe("JudgingHead", folder), path=str(folder), seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.head.training
    assert not is_generative(model.head)
    assert model.language is None
    assert model(collate([encoded_group(6, [4, 3])], layout="tree", pad_id=0)).shape == (2,)
