"""Writes recipes as YAML beside runs and models, reads them again, and identifies them by a hash."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import operator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from basereward.errors import RecipeError
from basereward.io.secrets import without_userinfo
from basereward.recipe.checks.check import Check
from basereward.recipe.checks.ranges import range_problems
from basereward.recipe.schema import EncodingRecipe, Recipe, VideoRecipe
from basereward.recipe.yaml.files import parse_yaml, read_yaml
from basereward.recipe.yaml.interpolation import escape, interpolate
from basereward.recipe.yaml.merge import KeyPath, Layer

NOT_CONTENT = ("name", "summary", "tracking", "launcher")
"""Keys that do not change the trained model."""
NOT_CONTENT_OF_TRAINER = ("devices", "nodes")
"""Keys of section `trainer` that do not change the trained model: a run may resume on another number of processes."""
LATER_KEYS: dict[KeyPath, Any] = {
    ("objective",): None,
    ("data", "encoding", "ending"): EncodingRecipe().ending,
    ("data", "encoding", "video"): dataclasses.asdict(VideoRecipe()),
    ("model", "start"): None,
    ("optimizer", "bfloat16"): "nearest",
    ("trainer", "strategy"): "auto",
    ("trainer", "shard"): "weights",
}
"""Keys that were added after recipes had been hashed, with the values of earlier recipes."""


def build_recipe(values: dict[str, Any]) -> Recipe:
    """The recipe of checked values, with the defaults of the schema for the others.

    >>> build_recipe({"optimizer": {"lr": 0.5}}).optimizer.lr
    0.5
    """
    recipe = OmegaConf.to_object(OmegaConf.merge(_schema(), escape(values)))
    assert isinstance(recipe, Recipe)
    return recipe


@functools.cache
def _schema() -> DictConfig:
    return OmegaConf.structured(Recipe)  # type: ignore[no-any-return]


def recipe_yaml(recipe: Recipe) -> str:
    """A recipe as YAML with every key, which `recipe_from_yaml` reads.

    >>> recipe_yaml(Recipe(name="one")).splitlines()[0]
    'name: one'
    """
    # Escaped, because a literal `${` in a text would be resolved when the file is read again.
    return OmegaConf.to_yaml(OmegaConf.create(escape(dataclasses.asdict(recipe))))


def recipe_from_yaml(source: str | Path) -> Recipe:
    """Reads a complete recipe and checks its keys, types and ranges.

    Nodes are not checked until they are built, because a saved model must open where the classes of its sources are not
    installed.

    Args:
        source: YAML as text, or the path of a file as `Path`.

    Raises:
        RecipeError: the source is not YAML, or not a recipe; the message lists all faults.

    >>> recipe_from_yaml("name: a")
    Traceback (most recent call last):
    basereward.errors.RecipeError: recipe is not a complete recipe:
      model.backbone: one of `path` (a hub id or a folder) and `make` is needed; neither is given...
    """
    origin = str(source) if isinstance(source, Path) else "recipe"
    values = read_yaml(source) if isinstance(source, Path) else parse_yaml(source, origin=origin)
    layer, faults = interpolate(Layer(_without_userinfo(values)))
    # Without its nodes, see above: their arguments were checked and completed when the recipe was first loaded.
    check = Check(layer, nodes=False)
    recipe = build_recipe(check.values)
    faults += check.faults
    faults = faults or range_problems(recipe)
    if faults:
        lines = [f"{key}: {message}" for key, message in faults]
        raise RecipeError("\n  ".join([f"{origin} is not a complete recipe:", *lines]), faults)
    return recipe


def _without_userinfo(values: dict[str, Any]) -> dict[str, Any]:
    """The values without a password in `tracking.uri`: earlier versions saved it, and now it is a fault."""
    tracking = values.get("tracking")
    uri = tracking.get("uri") if isinstance(tracking, dict) else None
    if not isinstance(tracking, dict) or not isinstance(uri, str):
        return values
    return {**values, "tracking": {**tracking, "uri": without_userinfo(uri)}}


def recipe_sha256(recipe: Recipe) -> str:
    """The identity of a recipe: the same for the same content, whatever the name, summary, tracking and devices.

    >>> recipe_sha256(Recipe(name="one")) == recipe_sha256(Recipe(name="other"))
    True
    """
    # Changing this line changes the identity of every recipe, and a sweep would train all finished cells again.
    content = {key: value for key, value in dataclasses.asdict(recipe).items() if key not in NOT_CONTENT}
    for key in NOT_CONTENT_OF_TRAINER:
        del content["trainer"][key]
    # They count only when they are set: older runs keep their identity.
    for (*path, last), default in LATER_KEYS.items():
        section = functools.reduce(operator.getitem, path, content)
        if section[last] == default:
            del section[last]
    backbone = content["model"]["backbone"]
    # The earlier default. Fused kernels change the rounding on a GPU, where no bits are promised.
    if backbone["kernels"] == "auto":
        backbone["kernels"] = "none"
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
