"""Axes and cells of a sweep."""

from __future__ import annotations

import pytest

from basereward.recipe.grid import Axis, GridError, axes, points
from basereward.recipe.yaml.merge import Layer


def test_cells_are_the_product_with_seeds_last() -> None:
    """Two heads, two rates and two seeds are eight cells in the order of the file; the last axis varies fastest."""
    layer = Layer(
        {
            "grid": {
                "model.head": {"a": {"_target_": "linear"}, "b": {"_target_": "mlp"}},
                "optimizer.lr": [1e-3, 1e-4],
            },
            "seeds": [0, 7],
        }
    )
    valid_axes = [axis for axis in axes(layer) if isinstance(axis, Axis)]
    names = [point.name for point in points(valid_axes, origin="file")]
    assert names[:3] == ["head=a,lr=0.001,seed=0", "head=a,lr=0.001,seed=7", "head=a,lr=0.0001,seed=0"]
    assert len(names) == 8
    assert names[-1] == "head=b,lr=0.0001,seed=7"


def test_seeds_axis_sets_all_three_seeds() -> None:
    """`seeds: [3]` sets data, init and dropout."""
    (axis,) = axes(Layer({"seeds": [3]}))
    assert isinstance(axis, Axis)
    (point,) = points([axis], origin="file")
    assert point.layer.values == {"seeds": {"data": 3, "init": 3, "dropout": 3}}
    assert point.overrides == {"seeds": 3}


def test_keys_with_the_same_last_part_are_written_in_full() -> None:
    """Otherwise the names of two axes would be equal."""
    two_axes = [Axis("data.mixture.weights.digits", {"1": 1}), Axis("data.mixture.limits.digits", {"9": 9})]
    (point,) = points(two_axes, origin="file")
    assert point.name == "data.mixture.weights.digits=1,data.mixture.limits.digits=9"


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ({"data.sources.digits.seed": [0, 1]}, ["seed=0", "seed=1"]),  # another recipe: it has other data
        ({"seeds.init": [0, 1]}, ["", ""]),
        ({"seeds.init": [0], "loss": {"a,seedless": {}, "a": {}}}, ["loss=a,seedless", "loss=a"]),
    ],
    ids=["of data", "of weights", "in a label"],
)
def test_seed_axes_are_recognized_by_their_key(grid: dict[str, object], expected: list[str]) -> None:
    """Neither the last part of the key nor a label decides."""
    valid_axes = [axis for axis in axes(Layer({"grid": grid})) if isinstance(axis, Axis)]
    assert [point.without_seeds for point in points(valid_axes, origin="file")] == expected


def test_no_axes_give_one_unchanged_point() -> None:
    """An experiment without a grid is a sweep of one cell."""
    (point,) = points([], origin="file")
    assert (point.name, point.overrides, point.layer.values) == ("", {}, {})


def test_outer_axis_is_applied_before_an_inner_one() -> None:
    """`model.head.layers` changes the head that `model.head` chose, in any order of the axes."""
    inner = Axis("model.head.layers", {"3": 3})
    outer = Axis("model.head", {"mlp": {"_target_": "mlp", "layers": 2}})
    (point,) = points([inner, outer], origin="file")
    assert point.layer.values["model"]["head"] == {"_target_": "mlp", "layers": 3}
    assert point.name == "layers=3,head=mlp"


@pytest.mark.parametrize(
    ("values", "key", "message"),
    [
        pytest.param({"grid": {"optimizr.lr": [1]}}, "grid.optimizr.lr", "did you mean 'optimizer'", id="typo"),
        pytest.param({"grid": {"optimizer.lr.x": [1]}}, "grid.optimizer.lr.x", "it has no key 'x'", id="below_a_value"),
        pytest.param({"grid": {"optimizer.lr": 1}}, "grid.optimizer.lr", "expected a list of values", id="no_list"),
        pytest.param({"grid": {"optimizer.lr": []}}, "grid.optimizer.lr", "expected a list of values", id="empty"),
        pytest.param({"grid": {"optimizer.lr": [1, 1]}}, "grid.optimizer.lr", "twice: 1", id="twice"),
        pytest.param({"grid": [1]}, "grid", "expected a mapping", id="grid_is_a_list"),
        pytest.param({"grid": {"seeds": [1]}}, "grid.seeds", "beside `grid`", id="seeds_in_grid"),
        pytest.param({"seeds": [0, True]}, "seeds", "different whole numbers", id="truth_is_no_seed"),
        pytest.param({"seeds": [4, 4]}, "seeds", "different whole numbers", id="seed_twice"),
        pytest.param({"seeds": []}, "seeds", "different whole numbers", id="no_seeds"),
    ],
)
def test_invalid_axis_is_an_error(values: dict[str, object], key: str, message: str) -> None:
    """The error has the key of the axis and what is allowed."""
    (error,) = axes(Layer(values))
    assert isinstance(error, GridError)
    assert error.key == key
    assert message in str(error)


def test_null_removes_an_axis() -> None:
    """An included axis can be removed."""
    assert list(axes(Layer({"grid": {"optimizer.lr": None}}))) == []
    assert list(axes(Layer({"grid": None}))) == []
