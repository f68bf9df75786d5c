"""`${other.key}` inside of values, resolved by OmegaConf."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from basereward.recipe.keys import key_problem
from basereward.recipe.merge import KeyPath, Layer, merge
from basereward.recipe.schema import Recipe

REFERENCE = re.compile(r"\$\{([\w.]+)\}")


def interpolate(layer: Layer) -> tuple[Layer, list[tuple[str, str]]]:
    """The layer with every `${...}` resolved, and what could not be as (key, message).

    A value may refer to any key of the recipe, defaults included, and to the environment as `${oc.env:HOME}`.
    """
    places = [(path, text) for path, text in _texts(layer.values, ()) if "${" in text]
    if not places:
        return layer, []
    faults: list[tuple[KeyPath, str]] = []
    complete = merge(Layer(dataclasses.asdict(Recipe())), layer).values
    for path, text in places:
        try:
            OmegaConf.create({"value": text})
        except OmegaConfBaseException as error:  # not the grammar of an interpolation; it would spoil the rest
            faults.append((path, _message(text, error, layer.origin(path))))
            _put(complete, path, None)
    config = OmegaConf.create(complete)
    result = merge(Layer(), layer)  # a copy
    for path, text in places:
        try:
            _put(result.values, path, _resolved(config, path))
        except OmegaConfBaseException as error:
            faults.append((path, _message(text, error, layer.origin(path))))
            _put(result.values, path, None)
    return result, [(".".join(map(str, path)), message) for path, message in dict(faults).items()]


def escape(value: Any) -> Any:
    """The value with `${` written so that OmegaConf takes it for text.

    >>> escape({"note": "costs ${5}"})
    {'note': 'costs \\\\${5}'}
    """
    if isinstance(value, dict):
        return {key: escape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [escape(inner) for inner in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _texts(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, str]]:
    """Every text in a nested value, with the keys and list positions that lead to it."""
    if isinstance(value, str):
        yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _texts(inner, (*path, key))


def _put(values: Any, path: Any, value: Any) -> None:
    for key in path[:-1]:
        values = values[key]
    values[path[-1]] = value


def _resolved(config: Any, path: Any) -> Any:
    for key in path:
        config = config[key]
    return OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config


def _message(text: str, error: Exception, origin: str) -> str:
    problems = [key_problem(tuple(key.split("."))) for key in REFERENCE.findall(text)]
    reason = next((problem for problem in problems if problem), str(error).split("\n", maxsplit=1)[0])
    return f"'{text}' cannot be resolved: {reason} ({origin})"
