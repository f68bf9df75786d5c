"""The contract of heads: the shape and dtype of scores are checked when a model is built, and the type of a head does
not depend on method names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from basereward import load_recipe
from basereward.data.batching.collate import collate
from basereward.errors import ModelError, RecipeError
from basereward.model.cost.meta_model import outline
from basereward.model.heads.contracts import is_generative
from basereward.model.reward_model import build_model
from basereward.recipe.schema import BackboneRecipe, ModelRecipe
from basereward.recipe.trust import trusting
from tests.helpers.support import encoded_group

FolderOf = Callable[[str], Path]


@pytest.fixture(autouse=True)
def trusted() -> Iterator[None]:
    """Allow heads from outside of the package."""
    with trusting(True):
        yield


def recipe(head: str, folder: Path) -> ModelRecipe:
    """Return the recipe of a model with a head of `odd_heads`."""
    return ModelRecipe(backbone=BackboneRecipe(path=str(folder)), head={"_target_": f"tests.helpers.odd_heads.{head}"})


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("ColumnHead", r"\(2, 1\)"),
        ("OneScoreHead", r"\(\)"),
        ("RankHead", "int64"),
        ("NarrowHead", "64 numbers"),
        ("AssertingHead", "64 numbers each: AssertionError"),
        ("StubbornHead", "64 numbers each: not today"),
        ("SqueezedHead", r"\(\) for 1 hidden state"),
        ("FirstTwoHead", r"\(2,\) for 3 hidden states"),
        ("DetachedHead", "without gradients"),
        ("UninitializedHead", "super"),
    ],
)
def test_head_with_invalid_output_is_refused(head: str, message: str, folder_of: FolderOf) -> None:
    """Building the model with weights or as an outline fails; the error says what the head returned and what is
    required."""
    folder = folder_of("llama")
    with pytest.raises(ModelError, match=rf"{head}.*{message}"):
        build_model(recipe(head, folder), path=str(folder), seed=0)
    with pytest.raises(ModelError, match=rf"{head}.*{message}"):
        outline(recipe(head, folder), path=str(folder))


def test_error_of_a_constructor_names_its_place(folder_of: FolderOf) -> None:
    """Before the first weight can be assigned, and with the file of the user."""
    folder = folder_of("llama")
    with pytest.raises(RecipeError, match=r"UninitializedLinearHead.*odd_heads\.py, line \d+\). Call `super"):
        build_model(recipe("UninitializedLinearHead", folder), path=str(folder), seed=0)


def test_scalar_head_may_have_a_method_named_judge(folder_of: FolderOf) -> None:
    """A method `judge` does not make a head generative: any pooling is accepted and the model scores.

    The check leaves the head in training mode and torch's generator unchanged.
    """
    folder = folder_of("llama")
    head = "model.head={_target_: tests.helpers.odd_heads.JudgingHead}"
    load_recipe("basereward", profile="tiny", overrides=[head, "model.pooling=mean"])
    torch.manual_seed(7)
    state_before = torch.get_rng_state()
    model = build_model(recipe("JudgingHead", folder), path=str(folder), seed=0)
    assert torch.equal(torch.get_rng_state(), state_before)
    assert model.head.training
    assert not is_generative(model.head)
    assert model.language is None
    assert model(collate([encoded_group(6, [4, 3])], layout="tree", pad_id=0)).shape == (2,)
