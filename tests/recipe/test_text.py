"""Recipes as YAML: written, read, and identified by a hash."""

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


def test_recipe_yaml_is_read_back(recipe: Recipe, tmp_path: Path) -> None:
    """From text and from a file, the recipe is equal."""
    assert recipe_from_yaml(recipe_yaml(recipe)) == recipe
    (tmp_path / "recipe.yaml").write_text(recipe_yaml(recipe))
    assert recipe_from_yaml(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    "text", ["${x}", "a\\${b}", "\\\\${c} \\d", "$", "{}", "off", "1e-3", "null", "", " é\n# x: y "]
)
def test_special_text_is_read_back(recipe: Recipe, text: str) -> None:
    """Text that looks like an interpolation, a number or a comment is kept."""
    loss = {"_target_": "x", "note": text, "notes": [text], "more": {"deep": text}}
    changed = dataclasses.replace(recipe, summary=text, loss=loss)
    assert recipe_from_yaml(recipe_yaml(changed)) == changed


def test_every_key_is_written(recipe: Recipe) -> None:
    """Defaults are written too, so that a later default does not change an old recipe."""
    text = recipe_yaml(recipe)
    for field in dataclasses.fields(recipe.trainer):
        assert f"\n  {field.name}:" in text


def test_all_faults_of_a_recipe_are_reported(recipe: Recipe) -> None:
    """An unknown key and a wrong type."""
    text = recipe_yaml(recipe).replace("  eps:", "  epps:").replace("  clip: 1.0", "  clip: much")
    with pytest.raises(RecipeError) as caught:
        recipe_from_yaml(text)
    assert "optimizer.epps: unknown key 'epps'; did you mean 'eps'?" in str(caught.value)
    assert "trainer.clip: expected a number; 'much' given" in str(caught.value)


@pytest.mark.parametrize("text", ["- 1", "a: [", "a: ${b", "model: {head: 3}"])
def test_text_that_is_no_recipe_is_an_error(text: str) -> None:
    """The error is a `RecipeError`."""
    with pytest.raises(RecipeError):
        recipe_from_yaml(text)


def test_recipe_is_read_without_its_classes(recipe: Recipe) -> None:
    """A saved model is used where its sources are not installed."""
    with_unknown_class = dataclasses.replace(
        recipe, data=dataclasses.replace(recipe.data, sources={"a": {"_target_": "no.such.Class"}})
    )
    with_unknown_class = dataclasses.replace(
        with_unknown_class, data=dataclasses.replace(with_unknown_class.data, mixture=Recipe().data.mixture)
    )
    assert recipe_from_yaml(recipe_yaml(with_unknown_class)) == with_unknown_class


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({"name": "other"}, True),
        ({"summary": "other"}, True),
        ({"loss": {"_target_": "other"}}, False),
        ({"seeds": {"init": 1}}, False),
    ],
)
def test_sha256_depends_on_what_is_trained(recipe: Recipe, change: dict[str, Any], is_same: bool) -> None:
    """Name and summary do not change it; seeds and the loss do."""
    if "seeds" in change:
        change = {"seeds": dataclasses.replace(recipe.seeds, **change["seeds"])}
    assert (recipe_sha256(dataclasses.replace(recipe, **change)) == recipe_sha256(recipe)) is is_same


def test_sha256_does_not_depend_on_spelling(
    experiments: Callable[..., Path],
) -> None:
    """The order of keys, 1 or 1.0, and written defaults do not change it."""
    experiments()
    first = load_recipe("one", overrides=["optimizer.lr=1", "model.head.dropout=0", "model.head.activation=silu"])
    second = load_recipe("one", overrides=["model.head.activation=silu", "optimizer.lr=1.0"])
    assert recipe_sha256(first) == recipe_sha256(second)
    assert len(recipe_sha256(first)) == 64


def test_earlier_recipe_with_a_password_can_be_read(recipe: Recipe) -> None:
    """User and password are removed from the address; a new recipe must not have them."""
    earlier = dataclasses.replace(recipe, tracking=TrackingRecipe(uri="http://me:pass@word@host:5000"))
    assert "pass@word" in recipe_yaml(earlier)
    assert recipe_from_yaml(recipe_yaml(earlier)).tracking.uri == "http://host:5000"
