"""An experiment on a profile, as layers: what varies is apart from what does not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from basereward.errors import RecipeError, check_several, unknown
from basereward.recipe.grid import SEEDS
from basereward.recipe.yaml.files import find_file, head_comment, yaml_names
from basereward.recipe.yaml.include import Reader
from basereward.recipe.yaml.merge import Layer, merge
from basereward.recipe.yaml.override import read_overrides

SWEEP, GRID, PROFILES, ENSEMBLES = "sweep", "grid", "profiles", "ensembles"


@dataclass(frozen=True)
class YamlLayers:
    """What was read: the recipe that all cells share; what is said of the experiment as a whole; the overrides, which
    win over the cells' own values."""

    recipe: Layer
    whole: Layer
    overrides: list[Layer]


def read_layers(experiment: str, profile: str | None, overrides: Iterable[str], reader: Reader) -> YamlLayers | None:
    """Profile, experiment and overrides; None: a file is not there, which the reader was told.

    Args: as of `load_recipe`.
    """
    layers = []
    if profile is not None:
        layers.append(_file(profile, "profile", reader))
        if layers[0] and GRID in layers[0].values:
            reader.tell(GRID, f"axes belong into an experiment, not a profile ({layers[0].origin((GRID,))})")
            layers[0] = layers[0].without(GRID)
    layers.append(_on_profile(_file(experiment, "experiment", reader), profile, reader))
    # A new target drops the arguments of the old one, so it comes before the arguments, whatever the order of typing.
    check_several(overrides, name="overrides", of="texts", error=RecipeError)
    ordered = sorted(overrides, key=lambda override: not override.partition("=")[0].endswith("_target_"))
    given = read_overrides(ordered, reader=reader)
    if None in layers:
        return None
    known = [layer for layer in layers if layer is not None]
    whole = Layer()
    for layer in (*known, *given):
        whole = merge(whole, _whole(layer))
    if profile is not None:
        # A grid that was dropped by `grid=null` is still a key, and varies nothing.
        known[0] = _for_sweeps(known[0], varied=bool(whole.values.get(GRID)) or SEEDS in whole.values, reader=reader)
    base = Layer()
    for layer in known:
        base = merge(base, layer)
    return YamlLayers(_of_a_cell(base), whole, [_of_a_cell(layer) for layer in given])


def _file(given: str, kind: str, reader: Reader) -> Layer | None:
    folder = reader.folder / "profiles" if kind == "profile" else reader.folder
    try:
        file = find_file(given, kind=kind, folder=folder)
        layer = reader.read(file)
    except RecipeError as error:
        reader.tell("", str(error))
        return None
    if kind == "experiment":
        named = Layer({"name": file.stem, "summary": head_comment(file)}, {(): str(file)})
        layer = merge(named, layer)
    return layer


def _on_profile(experiment: Layer | None, profile: str | None, reader: Reader) -> Layer | None:
    """An experiment with what it says of the profile that it runs on. A grid there takes the place of its own."""
    if experiment is None or PROFILES not in experiment.values:
        return experiment
    sections, at = experiment.values[PROFILES], experiment.origin((PROFILES,))
    plain = experiment.without(PROFILES)
    if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
        reader.tell(PROFILES, f"expected a mapping of profiles' names to what is different on each ({at})")
        return plain
    allowed = yaml_names(reader.folder / "profiles")
    for name in sections:
        if name not in allowed:
            reader.tell(f"{PROFILES}.{name}", f"{unknown('profile', name, allowed)} ({at})")
    name = "" if profile is None else Path(profile).stem
    if name not in sections:
        return plain
    inner = {path[2:]: origin for path, origin in experiment.origins.items() if path[:2] == (PROFILES, name)}
    if GRID in sections[name]:
        plain = plain.without(GRID)
    return merge(plain, Layer(sections[name], {(): at, **inner}))


def _for_sweeps(profile: Layer, *, varied: bool, reader: Reader) -> Layer:
    """A profile with what it says under `sweep`, the budget of one cell among many, when something is varied."""
    changes = profile.values.get(SWEEP)
    plain = profile.without(SWEEP)
    if changes is None:
        return plain
    at = profile.origin((SWEEP,))
    if not isinstance(changes, dict):
        reader.tell(SWEEP, f"expected a mapping of what is different for a cell of a sweep ({at})")
        return plain
    origins = {path[1:]: origin for path, origin in profile.origins.items() if path[:1] == (SWEEP,)}
    section = Layer(changes, {(): at, **origins})
    for key in _whole(section).values:
        reader.tell(f"{SWEEP}.{key}", f"is said of an experiment as a whole, not of a cell ({at})")
    return merge(plain, _of_a_cell(section)) if varied else plain


def _whole(layer: Layer) -> Layer:
    """Of the experiment as a whole: its axes, and what is made of its cells."""
    for key in layer.values:
        if not _is_whole(layer, key):
            layer = layer.without(key)
    return layer


def _of_a_cell(layer: Layer) -> Layer:
    for key in layer.values:
        if _is_whole(layer, key):
            layer = layer.without(key)
    return layer


def _is_whole(layer: Layer, key: str) -> bool:
    return key in (GRID, ENSEMBLES) or (key == SEEDS and isinstance(layer.values.get(key), list))
