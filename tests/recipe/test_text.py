"""Recipes are written as YAML, read again, and identified by a hash."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from basereward.errors import RecipeError
from basereward.recipe import load_recipe, recipe_from_yaml, recipe_sha256, recipe_yaml
from basereward.recipe.schema import Recipe, TrackingRecipe


@pytest.fixture
def recipe(experiments: Callable[..., Path]) -> Recipe:
    """A recipe with a node of every kind of value."""
    experiments()
    return load_recipe("one", overrides=["model.lora={rank: 4}", "data.mixture.weights={words: 1}"])


def test_what_is_written_is_read_again(recipe: Recipe, tmp_path: Path) -> None:
    """As text and as a file, to the last bit."""
    assert recipe_from_yaml(recipe_yaml(recipe)) == recipe
    (tmp_path / "recipe.yaml").write_text(recipe_yaml(recipe))
    assert recipe_from_yaml(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    "text", ["${x}", "a\\${b}", "\\\\${c} \\d", "$", "{}", "off", "1e-3", "null", "", " é\n# x: y "]
)
def test_awkward_text_survives(recipe: Recipe, text: str) -> None:
    """Also what looks like an interpolation, a number or a comment."""
    loss = {"_target_": "x", "note": text, "notes": [text], "more": {"deep": text}}
    odd = dataclasses.replace(recipe, summary=text, loss=loss)
    assert recipe_from_yaml(recipe_yaml(odd)) == odd


def test_every_key_is_written(recipe: Recipe) -> None:
    """Defaults too, so that a later default changes no old recipe."""
    written = recipe_yaml(recipe)
    for field in dataclasses.fields(recipe.trainer):
        assert f"\n  {field.name}:" in written


def test_a_wrong_recipe_is_refused_with_all_its_faults(recipe: Recipe) -> None:
    """Unknown keys, wrong types."""
    text = recipe_yaml(recipe).replace("  eps:", "  epps:").replace("  clip: 1.0", "  clip: much")
    with pytest.raises(RecipeError) as caught:
        recipe_from_yaml(text)
    assert "optimizer.epps: unknown key 'epps'; did you mean 'eps'?" in str(caught.value)
    assert "trainer.clip: expected a number; 'much' given" in str(caught.value)


@pytest.mark.parametrize("text", ["- 1", "a: [", "a: ${b", "model: {head: 3}"])
def test_text_that_is_no_recipe_is_refused(text: str) -> None:
    """With the project's own error."""
    with pytest.raises(RecipeError):
        recipe_from_yaml(text)


def test_a_recipe_is_read_where_its_classes_are_not_installed(recipe: Recipe) -> None:
    """A saved model is used far from the sources it was trained on."""
    elsewhere = dataclasses.replace(
        recipe, data=dataclasses.replace(recipe.data, sources={"a": {"_target_": "no.such.Class"}})
    )
    elsewhere = dataclasses.replace(elsewhere, data=dataclasses.replace(elsewhere.data, mixture=Recipe().data.mixture))
    assert recipe_from_yaml(recipe_yaml(elsewhere)) == elsewhere


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"name": "other"}, True),
        ({"summary": "other"}, True),
        ({"loss": {"_target_": "other"}}, False),
        ({"seeds": {"init": 1}}, False),
    ],
)
def test_the_sha256_is_of_what_is_trained(recipe: Recipe, change: dict[str, Any], same: bool) -> None:
    """Names, summaries and tracking do not count; seeds and everything else do."""
    if "seeds" in change:
        change = {"seeds": dataclasses.replace(recipe.seeds, **change["seeds"])}
    assert (recipe_sha256(dataclasses.replace(recipe, **change)) == recipe_sha256(recipe)) is same


def test_the_sha256_does_not_depend_on_the_order_of_keys_or_on_the_way_a_number_is_written(
    experiments: Callable[..., Path],
) -> None:
    """1 and 1.0 are one learning rate; a default that is written out changes nothing."""
    experiments()
    first = load_recipe("one", overrides=["optimizer.lr=1", "model.head.dropout=0", "model.head.activation=silu"])
    second = load_recipe("one", overrides=["model.head.activation=silu", "optimizer.lr=1.0"])
    assert recipe_sha256(first) == recipe_sha256(second)
    assert len(recipe_sha256(first)) == 64


def test_a_recipe_that_an_earlier_version_kept_with_a_password_still_opens(recipe: Recipe) -> None:
    """The address is read without user and password, which a new recipe may not have."""
    kept = dataclasses.replace(recipe, tracking=TrackingRecipe(uri="http://me:pass@word@host:5000"))
    assert "pass@word" in recipe_yaml(kept)
    assert recipe_from_yaml(recipe_yaml(kept)).tracking.uri == "http://host:5000"
