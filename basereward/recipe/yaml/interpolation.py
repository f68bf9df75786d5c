"""Resolves references `${other.key}` in values, by OmegaConf."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
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
"""Most characters of all texts of a recipe after their references are resolved."""


def interpolate(layer: Layer) -> tuple[Layer, list[tuple[str, str]]]:
    """Resolves every `${...}` of a layer.

    A value may refer to any key of the recipe, also to one with a default. OmegaConf's resolvers are faults, because
    `${oc.env:NAME}` may read a secret from the environment, and a resolved recipe is stored with every run and model.
    So are references that add up to more than `RESOLVED_LIMIT` characters.

    Returns:
        The resolved layer, and pairs of a key and a message for what could not be resolved.

    >>> layer, faults = interpolate(Layer({"name": "a", "summary": "of ${name}"}))
    >>> layer.values["summary"], faults
    ('of a', [])
    """
    places = [(path, text) for path, text in texts_of(layer.values, ()) if "${" in text]
    if not places:
        return layer, []
    faults: list[tuple[KeyPath, str]] = []
    # With the defaults of the schema, because a reference may be to a key that no file sets.
    complete = merge(Layer(dataclasses.asdict(Recipe())), layer).values
    for path, text in places:
        try:
            OmegaConf.create({"value": text})
            _check_references(text)
        except (OmegaConfBaseException, ValueError) as error:
            # One text with wrong syntax would make OmegaConf refuse the whole recipe.
            faults.append((path, _message(text, error, layer.origin(path))))
            _set_at(complete, path, None)
    if _resolved_size(complete) > RESOLVED_LIMIT:
        message = f"the references add up to more than {RESOLVED_LIMIT:,} characters; refer to smaller values"
        return layer, [*_by_key(faults), (".".join(map(str, places[0][0])), message)]
    config = OmegaConf.create(complete)
    # A copy, because the layer is shared by all cells.
    result = merge(Layer(), layer)
    for path, text in places:
        try:
            _set_at(result.values, path, _resolved(config, path))
        except OmegaConfBaseException as error:
            faults.append((path, _message(text, error, layer.origin(path))))
            _set_at(result.values, path, None)
    return result, _by_key(faults)


def _by_key(faults: list[tuple[KeyPath, str]]) -> list[tuple[str, str]]:
    return [(".".join(map(str, path)), message) for path, message in dict(faults).items()]


def _check_references(text: str) -> None:
    """Checks that every `${...}` of a text names a key.

    Raises:
        ValueError: a reference is a resolver, such as `${oc.env:NAME}`, or contains another reference.
    """
    for opening in OPENING.finditer(text):
        if len(opening["backslashes"]) % 2:
            # An odd number of backslashes escapes the reference.
            continue
        resolver = RESOLVER.match(text, opening.end())
        if resolver is not None:
            raise ValueError(
                f"a recipe reads nothing from outside, so '{resolver['name']}' is not available; give the value on the "
                'command line, as in key="$NAME", unless it is a secret: a recipe is saved with every run and model'
            )
        if not KEY.match(text, opening.end()):
            raise ValueError("a reference must name a key, as in ${optimizer.lr}")


def _resolved_size(values: dict[str, Any]) -> int:
    """Characters of all texts after resolving, and one for every other item, computed without resolving anything.

    If each text refers twice to the next one, the size doubles with every text, and a short recipe would fill the
    memory. A circle of references counts once; resolving it is an error of its own.
    """
    sizes: dict[str, int] = {}

    def size_of(value: Any) -> int:
        size = 1
        if isinstance(value, dict | list):
            size += sum(size_of(item) for item in (value.values() if isinstance(value, dict) else value))
        elif isinstance(value, str):
            # Counted as if every reference were resolved at its place.
            size += len(value) + sum(size_at(key) for key in REFERENCE.findall(value))
        return min(size, RESOLVED_LIMIT + 1)

    def size_at(key: str) -> int:
        if key not in sizes:
            # A circle of references finds this value when it comes back to the key, and ends.
            sizes[key] = 0
            sizes[key] = size_of(_value_at(values, key))
        return sizes[key]

    try:
        return size_of(values)
    except RecursionError:
        # A chain of hundreds of references, which OmegaConf could not resolve either.
        return RESOLVED_LIMIT + 1


def _value_at(values: Any, key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def escape(value: Any) -> Any:
    """The value with every `${` escaped, so that OmegaConf reads it as text.

    >>> escape({"note": "costs ${5}"})
    {'note': 'costs \\\\${5}'}
    """
    if isinstance(value, dict):
        return {key: escape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [escape(inner) for inner in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def texts_of(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, str]]:
    """Every text in a nested value, with the path of keys and list indices that leads to it.

    >>> list(texts_of({"a": ["x", 1]}, ()))
    [(('a', 0), 'x')]
    """
    if isinstance(value, str):
        yield path, value
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield from texts_of(inner, (*path, key))


def _set_at(values: Any, path: Any, value: Any) -> None:
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
