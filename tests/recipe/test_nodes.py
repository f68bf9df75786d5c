"""Nodes built and refused. What `check_node` finds is tested through `find_faults`."""

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


def test_a_node_is_built_with_what_the_code_supplies_and_what_the_recipe_says(write_module: Write) -> None:
    """Positional arguments first, then the node's own."""
    write_module("own_nodes", SOURCE)
    head = make({"_target_": "own_nodes.Head", "extra": 3}, "heads", 64)
    assert head.given == (64, 2, {"extra": 3})


def test_a_node_of_the_package_is_built_by_its_short_name() -> None:
    """The file name is the name."""
    loss = make({"_target_": "bradley_terry", "margin": "data"}, "losses")
    assert type(loss).__name__ == "BradleyTerry"
    assert loss.margin == "data"


def test_a_wrong_node_is_refused_before_its_class_runs() -> None:
    """All of its faults are in the message."""
    with pytest.raises(RecipeError) as caught:
        make({"_target_": "mlp", "layrs": 2, "activation": "slu"}, "heads", 8)
    assert "did you mean 'layers'?" in str(caught.value)
    assert "did you mean 'silu'?" in str(caught.value)


def test_a_value_that_the_class_refuses_is_a_fault_of_the_recipe(write_module: Write) -> None:
    """Its own message is kept."""
    write_module("own_nodes", SOURCE)
    with pytest.raises(RecipeError, match=r"head 'own_nodes\.Head': at least 1 layer, 0 given"):
        make({"_target_": "own_nodes.Head", "layers": 0}, "heads", 8)


def test_a_class_that_cannot_take_what_the_code_supplies_is_refused(write_module: Write) -> None:
    """A head is made with a hidden size."""
    write_module("own_nodes", SOURCE)
    _, faults = check_node({"_target_": "own_nodes.Strict"}, "heads")
    assert faults == [("_target_", "own_nodes.Strict cannot be a head: its first argument must be hidden_size")]
    assert check_node({"_target_": "own_nodes.Strict"}, "losses")[1] == []
