"""Layers over layers."""

from __future__ import annotations

from basereward.recipe.yaml.merge import Layer, layer_at, merge

MLP = {"_target_": "mlp", "layers": 2}


def test_a_node_whose_target_changes_is_replaced() -> None:
    """No argument of the old class reaches the new one."""
    merged = merge(Layer({"model": {"head": MLP}}), Layer({"model": {"head": {"_target_": "linear", "bias": False}}}))
    assert merged.values == {"model": {"head": {"_target_": "linear", "bias": False}}}


def test_a_node_whose_target_stays_is_merged() -> None:
    """Naming the same class again keeps its arguments."""
    merged = merge(Layer({"head": MLP}), Layer({"head": {"_target_": "mlp", "dropout": 0.1}}))
    assert merged.values["head"] == {"_target_": "mlp", "layers": 2, "dropout": 0.1}


def test_the_rule_for_nodes_holds_at_the_root_too() -> None:
    """A fragment that is a node is replaced by what stands beside its `include`."""
    assert merge(Layer(dict(MLP)), Layer({"_target_": "linear"})).values == {"_target_": "linear"}


def test_lists_and_null_replace() -> None:
    """Lists are not joined, and null is a value."""
    merged = merge(Layer({"a": [1, 2], "b": {"c": 1}}), Layer({"a": [3], "b": None}))
    assert merged.values == {"a": [3], "b": None}


def test_layers_stay_as_they_are() -> None:
    """Merging changes neither side, nor does a change of the result."""
    base, top = Layer({"a": {"b": [1]}}), Layer({"a": {"c": [2]}})
    merged = merge(base, top)
    merged.values["a"]["c"].append(3)
    assert base.values == {"a": {"b": [1]}}
    assert top.values == {"a": {"c": [2]}}


def test_every_key_knows_where_it_was_written() -> None:
    """The origin of a key is that of the last layer that set it, and of its section where nobody set it."""
    base = merge(Layer(), Layer({"optimizer": {"lr": 1, "eps": 2}}, {(): "profile"}))
    merged = merge(base, layer_at(("optimizer", "lr"), 3, origin="command line"))
    assert merged.origin(("optimizer", "lr")) == "command line"
    assert merged.origin(("optimizer", "eps")) == "profile"
    assert merged.origin(("optimizer", "missing")) == "profile"
    assert merged.origin(("data",)) == ""


def test_origins_of_replaced_keys_are_forgotten() -> None:
    """A fault below a replaced mapping names the new file, not the old one."""
    base = merge(Layer(), Layer({"head": MLP}, {(): "old", ("head", "layers"): "older"}))
    merged = merge(base, Layer({"head": {"_target_": "linear", "layers": 1}}, {(): "new"}))
    assert merged.origin(("head", "layers")) == "new"


def test_a_layer_can_lose_a_key() -> None:
    """What is taken out takes its origins along."""
    layer = layer_at(("grid", "optimizer.lr"), [1], origin="x").without("grid")
    assert layer == Layer()
