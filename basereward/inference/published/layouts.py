"""How published reward models store their head, and the head of ours that computes the same.

| layout | weights of the head | known from |
|---|---|---|
| linear | `score.weight`, in a class of transformers for sequence classification | Skywork-Reward |
| side file | `v_head.summary` in `value_head.safetensors`, beside a whole language model | Skywork-VL-Reward |
| two layers | `score.0`, ReLU, `score.2`, in code of the checkpoint | Qwen2.5-Math-RM |
| our own | `head.layers`, with `reward_head` in config.json | `basereward export` of text backbones |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from basereward.errors import ModelError
from basereward.io.limits import read_json_object
from basereward.model.saving.folder_checks import first_not_finite, load_finite
from basereward.model.saving.identity import CONFIG, find_file, weight_files
from basereward.recipe.schema import Node

SIDE_FILE = "value_head.safetensors"
TWO_LAYERS = ("Qwen2ForRewardModel",)
"""Architectures whose code has a ReLU between the two layers. The files do not say which activation it is."""


@dataclass(frozen=True, slots=True)
class PublishedHead:
    """The head of a published model.

    Attributes:
        layout: its name in the table above.
        node: the head of ours, as in a recipe.
        weights: by the names that they have in the head of ours.
    """

    layout: str
    node: Node
    weights: Mapping[str, Tensor]


def published_head(path: str | Path, *, revision: str | None = None) -> PublishedHead:
    """Reads the head of a checkpoint; no code of the checkpoint runs.

    Args:
        path: hub id or folder.
        revision: branch, tag or commit of the hub repository.

    Raises:
        ModelError: the checkpoint has no head of a known layout, or its head gives more than one score.
    """
    config_file = find_file(path, CONFIG, revision=revision)
    if config_file is None:
        raise ModelError(f"'{path}' is no checkpoint: it has no config.json")
    config = read_json_object(config_file, error=ModelError)
    architecture = str((config.get("architectures") or ["none"])[0])
    side = find_file(path, SIDE_FILE, revision=revision)
    if side is not None:
        return _side_head(load_finite(side), where=side)
    weights = _weights_below(path, ("score.", "head."), revision=revision)
    if isinstance(config.get("reward_head"), dict):
        if "vision_config" in config:
            # transformers finds the vision tower of such a backbone only under the names of its own classes.
            raise ModelError(
                f"'{path}' is an export of this package with a backbone that reads images, which is not imported "
                "again. Use the model that it was made from, or open the export with transformers"
            )
        return _own_head(config["reward_head"], weights, where=path)
    if set(weights) <= {"score.weight", "score.bias"} and architecture.endswith("ForSequenceClassification"):
        if "score.weight" in weights:
            return _linear(weights, prefix="score.", layout="linear", where=path)
    elif architecture in TWO_LAYERS:
        return _two_layers(weights, where=path)
    raise ModelError(
        f"'{path}' ({architecture}) has no head of a known layout. Known are: score.weight in a class for sequence "
        f"classification, {SIDE_FILE}, two layers of {', '.join(TWO_LAYERS)}, and exports of this package"
    )


def _weights_below(path: str | Path, prefixes: tuple[str, ...], *, revision: str | None) -> dict[str, Tensor]:
    """The weights whose names begin so.

    Raises:
        ModelError: one is NaN or infinite.
    """
    found: dict[str, Tensor] = {}
    for file in weight_files(path, revision=revision).values():
        with safe_open(file, framework="pt") as tensors:
            names = [name for name in tensors.keys() if name.startswith(prefixes)]  # noqa: SIM118
            found |= {name: tensors.get_tensor(name) for name in names}
    if (wrong := first_not_finite(found)) is not None:
        raise ModelError(f"'{path}': {wrong} is NaN or infinite. Copy the checkpoint again")
    return found


def _linear(weights: Mapping[str, Tensor], *, prefix: str, layout: str, where: object) -> PublishedHead:
    """One linear layer.

    Raises:
        ModelError: it gives several scores.
    """
    weight = weights[f"{prefix}weight"]
    if weight.ndim != 2 or weight.shape[0] != 1:
        raise ModelError(
            f"'{where}': the head has shape {tuple(weight.shape)} and gives {weight.shape[0]} numbers; a scalar reward "
            "model has one. Classifiers, and models of several attributes, cannot be imported"
        )
    bias = f"{prefix}bias" in weights
    own = {f"score.{name}": weights[f"{prefix}{name}"] for name in ("weight", *(["bias"] if bias else []))}
    return PublishedHead(layout, {"_target_": "linear", "bias": bias}, own)


def _side_head(weights: Mapping[str, Tensor], *, where: object) -> PublishedHead:
    """The head in a file of its own, as TRL's value head names it.

    Raises:
        ModelError: the file has other weights.
    """
    prefixes = {name.rpartition(".")[0] for name in weights}
    if prefixes not in ({"v_head.summary"}, {"summary"}):
        raise ModelError(f"'{where}' has {', '.join(sorted(weights)[:5])}; v_head.summary.weight is needed")
    return _linear(weights, prefix=f"{prefixes.pop()}.", layout="side file", where=where)


def _two_layers(weights: Mapping[str, Tensor], *, where: object) -> PublishedHead:
    """Linear, ReLU, linear.

    Raises:
        ModelError: the weights have other names, or the last layer gives several scores.
    """
    needed = {f"score.{layer}.{name}" for layer in (0, 2) for name in ("weight", "bias")}
    if set(weights) != needed:
        raise ModelError(f"'{where}': the head has {', '.join(sorted(weights)[:8]) or 'no weights'}; it needs {needed}")
    if weights["score.2.weight"].shape[0] != 1:
        raise ModelError(f"'{where}': the head gives {weights['score.2.weight'].shape[0]} numbers; one is needed")
    node = {"_target_": "mlp", "layers": 2, "activation": "relu", "width": weights["score.0.weight"].shape[0]}
    return PublishedHead("two layers", node, {name.replace("score.", "layers."): weights[name] for name in needed})


def _own_head(settings: Mapping[str, Any], weights: Mapping[str, Tensor], *, where: object) -> PublishedHead:
    """The head of an export of ours.

    Raises:
        ModelError: its settings are not those of an export.
    """
    sizes, activation = settings.get("sizes"), settings.get("activation")
    if not isinstance(sizes, list) or len(sizes) < 2:
        raise ModelError(f"'{where}': reward_head in config.json has no list of sizes")
    own: dict[str, Tensor] = {}
    for name, weight in weights.items():
        index, _, kind = name.removeprefix("head.layers.").partition(".")
        # In our mlp an activation lies between two layers.
        place = f"layers.{2 * int(index)}" if index.isdecimal() and len(sizes) > 2 else "score"
        own[f"{place}.{kind}"] = weight
    if len(sizes) == 2:
        return PublishedHead("our own", {"_target_": "linear", "bias": "score.bias" in own}, own)
    node = {"_target_": "mlp", "layers": len(sizes) - 1, "activation": activation, "width": sizes[1]}
    return PublishedHead("our own", node, own)
