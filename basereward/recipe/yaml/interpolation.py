"""`${other.key}` inside of values, resolved by OmegaConf."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from basereward.recipe.schema import Recipe
from basereward.recipe.yaml.keys import key_problem
from basereward.recipe.yaml.merge import KeyPath, Layer, merge

REFERENCE = re.compile(r"\$\{([\w.-]+)\}")
OPENING = re.compile(r"(?P<backslashes>\\*)\$\{")
KEY = re.compile(r"[\w-][\w.-]*\}")
RESOLVER = re.compile(r"\s*(?P<name>[\w.]+)\s*:")
RESOLVED_LIMIT = 2**20
"""Characters that the texts of a recipe may have once their references are resolved."""


def interpolate(layer: Layer) -> tuple[Layer, list[tuple[str, str]]]:
    """The layer with every `${...}` resolved, and what could not be as (key, message).

    A value may refer to any key of the recipe, defaults included. OmegaConf's resolvers are refused: what
    `${oc.env:NAME}` reads from the environment may be a secret, and a resolved recipe is stored with every run and
    model. References that add up to more than `RESOLVED_LIMIT` characters are refused too.
    """
    places = [(path, text) for path, text in texts_of(layer.values, ()) if "${" in text]
    if not places:
        return layer, []
    faults: list[tuple[KeyPath, str]] = []
    complete = merge(Layer(dataclasses.asdict(Recipe())), layer).values
    for path, text in places:
        try:
            OmegaConf.create({"value": text})
            _check_references(text)
        except (OmegaConfBaseException, ValueError) as error:  # it would spoil the rest
            faults.append((path, _message(text, error, layer.origin(path))))
            _put(complete, path, None)
    if _resolved_size(complete) > RESOLVED_LIMIT:
        message = f"the references add up to more than {RESOLVED_LIMIT:,} characters; refer to smaller values"
        return layer, [*_by_key(faults), (".".join(map(str, places[0][0])), message)]
    config = OmegaConf.create(complete)
    result = merge(Layer(), layer)  # a copy
    for path, text in places:
        try:
            _put(result.values, path, _resolved(config, path))
        except OmegaConfBaseException as error:
            faults.append((path, _message(text, error, layer.origin(path))))
            _put(result.values, path, None)
    return result, _by_key(faults)


def _by_key(faults: list[tuple[KeyPath, str]]) -> list[tuple[str, str]]:
    return [(".".join(map(str, path)), message) for path, message in dict(faults).items()]


def _check_references(text: str) -> None:
    """Checks that every `${...}` of a text names a key.

    Raises:
        ValueError: one is a resolver, such as `${oc.env:NAME}`, or is built of others.
    """
    for found in OPENING.finditer(text):
        if len(found["backslashes"]) % 2:
            continue  # an odd number of backslashes makes it text
        name = RESOLVER.match(text, found.end())
        if name is not None:
            raise ValueError(
                f"a recipe reads nothing from outside, so '{name['name']}' is not available; the command line can give "
                'the value, as in key="$NAME", unless it is a secret: a recipe is kept with every run and model'
            )
        if not KEY.match(text, found.end()):
            raise ValueError("only a key can be referred to, as in ${optimizer.lr}")


def _resolved_size(values: dict[str, Any]) -> int:
    """Characters of all texts, and one for every other item, once each reference is resolved. None is resolved here.

    A text that refers to one that refers to others doubles with every step, so that a short recipe would fill the
    memory. References that go in a circle count once; to resolve them is an error of its own.
    """
    sizes: dict[str, int] = {}

    def size_of(value: Any) -> int:
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        size = 1 + sum(size_of(item) for item in items)
        if isinstance(value, str):
            size += len(value) + sum(size_at(key) for key in REFERENCE.findall(value))
        return min(size, RESOLVED_LIMIT + 1)

    def size_at(key: str) -> int:
        if key not in sizes:
            sizes[key] = 0  # where a circle ends
            sizes[key] = size_of(_value_at(values, key))
        return sizes[key]

    try:
        return size_of(values)
    except RecursionError:  # a chain of hundreds of references
        return RESOLVED_LIMIT + 1


def _value_at(values: Any, key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


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


def texts_of(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, str]]:
    """Every text in a nested value, with the keys and list positions that lead to it."""
    if isinstance(value, str):
        yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from texts_of(inner, (*path, key))


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
    return f"'{text}' cannot be resolved: {reason}" + (f" ({origin})" if origin else "")
