"""Merging of YAML layers, and the origin of each key."""

from __future__ import annotations

from basereward.recipe.yaml.merge import Layer, layer_at, merge

MLP = {"_target_": "mlp", "layers": 2}


def test_node_with_another_target_is_replaced() -> None:
    """Arguments of the old class are not passed to the new one."""
    merged = merge(Layer({"model": {"head": MLP}}), Layer({"model": {"head": {"_target_": "linear", "bias": False}}}))
    assert merged.values == {"model": {"head": {"_target_": "linear", "bias": False}}}


def test_node_with_the_same_target_is_merged() -> None:
    """Repeating the class keeps its arguments."""
    merged = merge(Layer({"head": MLP}), Layer({"head": {"_target_": "mlp", "dropout": 0.1}}))
    assert merged.values["head"] == {"_target_": "mlp", "layers": 2, "dropout": 0.1}


def test_node_at_the_root_is_replaced() -> None:
    """A fragment that is a node is replaced by the keys beside its `include`."""
    assert merge(Layer(dict(MLP)), Layer({"_target_": "linear"})).values == {"_target_": "linear"}


def test_lists_and_null_replace() -> None:
    """Lists are not concatenated, and null is a value."""
    merged = merge(Layer({"a": [1, 2], "b": {"c": 1}}), Layer({"a": [3], "b": None}))
    assert merged.values == {"a": [3], "b": None}


def test_merge_does_not_change_its_inputs() -> None:
    """Changing the result does not change them either."""
    base, top = Layer({"a": {"b": [1]}}), Layer({"a": {"c": [2]}})
    merged = merge(base, top)
    merged.values["a"]["c"].append(3)
    assert base.values == {"a": {"b": [1]}}
    assert top.values == {"a": {"c": [2]}}


def test_origin_is_the_last_layer_that_set_the_key() -> None:
    """A key that no layer set has the origin of its section."""
    base = merge(Layer(), Layer({"optimizer": {"lr": 1, "eps": 2}}, {(): "profile"}))
    merged = merge(base, layer_at(("optimizer", "lr"), 3, origin="command line"))
    assert merged.origin(("optimizer", "lr")) == "command line"
    assert merged.origin(("optimizer", "eps")) == "profile"
    assert merged.origin(("optimizer", "missing")) == "profile"
    assert merged.origin(("data",)) == ""


def test_replaced_mapping_has_the_new_origin() -> None:
    """A fault in a replaced mapping names the new file."""
    base = merge(Layer(), Layer({"head": MLP}, {(): "old", ("head", "layers"): "older"}))
    merged = merge(base, Layer({"head": {"_target_": "linear", "layers": 1}}, {(): "new"}))
    assert merged.origin(("head", "layers")) == "new"


def test_without_removes_a_key_and_its_origin() -> None:
    """The remaining layer is empty."""
    layer = layer_at(("grid", "optimizer.lr"), [1], origin="x").without("grid")
    assert layer == Layer()
