"""Nodes are built from recipes, or rejected. The faults of `check_node` are tested through `find_faults`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from basereward.errors import RecipeError
from basereward.recipe import make
from basereward.recipe.nodes import check_node

Write = Callable[[str, str], Path]
SOURCE = """
class Head:
    def __init__(self, size, *, layers=2, **more):
        if layers < 1:
            raise ValueError(f"at least 1 layer, {layers} given")
        self.given = (size, layers, more)

class Strict:
    def __init__(self, *, layers=2): ...
"""


def test_node_is_built_with_supplied_and_recipe_arguments(write_module: Write) -> None:
    """Positional arguments come from the code, keyword arguments from the recipe."""
    write_module("own_nodes", SOURCE)
    head = make({"_target_": "own_nodes.Head", "extra": 3}, "heads", 64)
    assert head.given == (64, 2, {"extra": 3})


def test_node_of_the_package_has_a_short_name() -> None:
    """The short name is the file name."""
    loss = make({"_target_": "bradley_terry", "margin": "data"}, "losses")
    assert type(loss).__name__ == "BradleyTerry"
    assert loss.margin == "data"


def test_faults_of_a_node_are_reported_before_it_is_built() -> None:
    """The message has all of its faults."""
    with pytest.raises(RecipeError) as caught:
        make({"_target_": "mlp", "layrs": 2, "activation": "slu"}, "heads", 8)
    assert "did you mean 'layers'?" in str(caught.value)
    assert "did you mean 'silu'?" in str(caught.value)


def test_error_of_the_class_is_a_recipe_error(write_module: Write) -> None:
    """The message of the class is kept."""
    write_module("own_nodes", SOURCE)
    with pytest.raises(RecipeError, match=r"head 'own_nodes\.Head': at least 1 layer, 0 given"):
        make({"_target_": "own_nodes.Head", "layers": 0}, "heads", 8)


def test_class_must_accept_the_supplied_arguments(write_module: Write) -> None:
    """A head is built with a hidden size; a loss is not."""
    write_module("own_nodes", SOURCE)
    _, faults = check_node({"_target_": "own_nodes.Strict"}, "heads")
    assert faults == [("_target_", "own_nodes.Strict cannot be a head: its first argument must be hidden_size")]
    assert check_node({"_target_": "own_nodes.Strict"}, "losses")[1] == []
