"""Reads an experiment, its profile and the overrides as layers, and separates the grid from the recipe of the cells."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basereward.errors import RecipeError, check_several, unknown
from basereward.recipe.grid import SEEDS
from basereward.recipe.yaml.files import find_file, head_comment, yaml_names
from basereward.recipe.yaml.include import COMMAND_LINE, Reader
from basereward.recipe.yaml.merge import KeyPath, Layer, merge
from basereward.recipe.yaml.override import GRID, Override, read_overrides

SWEEP, PROFILES, ENSEMBLES, STAGES = "sweep", "profiles", "ensembles", "stages"
"""Keys of YAML files that are not keys of a recipe."""


@dataclass(frozen=True)
class YamlLayers:
    """The layers of an experiment.

    Attributes:
        recipe: the values that all cells share.
        experiment: the keys of the experiment as a whole: its axes, ensembles and stages.
        overrides: values that replace those of the axes too.

    >>> from basereward.recipe.yaml.files import experiments_folders
    >>> layers = read_layers("head_depth", "tiny", [], Reader(experiments_folders()))
    >>> list(layers.experiment.values["grid"])
    ['model.head']
    """

    recipe: Layer
    experiment: Layer
    overrides: list[Layer]


def read_layers(experiment: str, profile: str | None, overrides: Iterable[str], reader: Reader) -> YamlLayers | None:
    """Reads profile, experiment and overrides.

    Args:
        experiment, profile, overrides: as of `load_recipe`.
        reader: gets the faults.

    Returns:
        The layers; None when the file of the experiment or of the profile does not exist.

    >>> from basereward.recipe.yaml.files import experiments_folders
    >>> reader = Reader(experiments_folders())
    >>> read_layers("no_such_experiment", "tiny", [], reader) is None, len(reader.faults)
    (True, 1)
    """
    layers = []
    if profile is not None:
        layers.append(_read_profile(profile, reader))
    layers.append(_apply_profile_section(_file(experiment, "experiment", reader), profile, reader))
    # A new target removes the arguments of the old one, so that its override must come before those of its arguments.
    check_several(overrides, name="overrides", of="texts", error=RecipeError)
    ordered = sorted(overrides, key=lambda override: not override.partition("=")[0].endswith("_target_"))
    read = read_overrides(ordered, reader=reader)
    if None in layers:
        return None
    known = [layer for layer in layers if layer is not None]
    experiment_layer = _merge_all([_experiment_keys(layer) for layer in known])
    experiment_layer = _apply_overrides(experiment_layer, read, reader)
    if profile is not None:
        # A grid that was removed by `grid=null` is still a key, and varies nothing.
        is_varied = bool(experiment_layer.values.get(GRID)) or SEEDS in experiment_layer.values
        known[0] = _apply_sweep_section(known[0], is_varied=is_varied, reader=reader)
    base = _merge_all(known)
    return YamlLayers(_cell_keys(base), experiment_layer, [_cell_keys(override.layer) for override in read])


def _apply_overrides(experiment: Layer, overrides: Iterable[Override], reader: Reader) -> Layer:
    """The axes and ensembles of an experiment with the overrides applied.

    `grid.KEY` replaces the values of an axis, `grid` replaces all axes, and `+grid` adds some. Only an experiment
    without axes takes a new axis without the sign: in another one, a misspelt axis would multiply the cells.
    """
    grid = experiment.values.get(GRID)
    axes = {key for key, values in grid.items() if values is not None} if isinstance(grid, dict) else set()
    for override in overrides:
        if override.is_whole_grid and not override.adds:
            axes = set()
        for key in override.axes:
            if fault := _axis_fault(key, axes, adds=override.adds):
                reader.add_fault(f"{GRID}.{key}", f"{fault} ({COMMAND_LINE})")
        experiment = _apply_override(experiment, override)
    return experiment


def _axis_fault(key: str, axes: Collection[str], *, adds: bool) -> str | None:
    """What is wrong with an axis of the command line, beside the axes of the file."""
    if adds and key in axes:
        return f"is an axis already; replace its values with {GRID}.{key}=..."
    if not adds and axes and key not in axes:
        known = ", ".join(sorted(axes))
        return f"is no axis of this experiment. Add it with +{GRID}.{key}=..., or replace one of: {known}"
    return None


def _apply_override(experiment: Layer, override: Override) -> Layer:
    grid = experiment.values.get(GRID)
    if isinstance(grid, dict) and not override.adds:
        # Merged, a mapping of labels would leave the old values beside the new ones.
        # An axis keeps its place among the others, which is the order of the labels in the names of cells.
        kept = {} if override.is_whole_grid else {key: override.axes.get(key, grid[key]) for key in grid}
        experiment = Layer({**experiment.values, GRID: kept}, experiment.origins)
    return merge(experiment, _experiment_keys(override.layer))


def _merge_all(layers: Iterable[Layer]) -> Layer:
    """One layer from several; a later one replaces values of those before it."""
    merged = Layer()
    for layer in layers:
        merged = merge(merged, layer)
    return merged


def _read_profile(profile: str, reader: Reader) -> Layer | None:
    """The layer of a profile without axes, which would vary every experiment that runs on it."""
    layer = _file(profile, "profile", reader)
    if layer is not None and GRID in layer.values:
        reader.add_fault(GRID, f"axes belong in an experiment, not in a profile ({layer.origin((GRID,))})")
        return layer.without(GRID)
    return layer


def _file(name_or_path: str, kind: str, reader: Reader) -> Layer | None:
    folders = reader.subfolders("profiles") if kind == "profile" else reader.folders
    try:
        file = find_file(name_or_path, kind=kind, folders=folders)
        layer = reader.read(file)
    except RecipeError as error:
        reader.add_fault("", str(error))
        return None
    if kind == "experiment":
        # Below the values of the file, so that a file may set its own name and summary.
        named = Layer({"name": file.stem, "summary": head_comment(file)}, {(): str(file)})
        layer = merge(named, layer)
    return layer


def _apply_profile_section(experiment: Layer | None, profile: str | None, reader: Reader) -> Layer | None:
    """The experiment with its own section for the profile merged in; a grid of that section replaces the whole grid."""
    if experiment is None or PROFILES not in experiment.values:
        return experiment
    sections, origin = experiment.values[PROFILES], experiment.origin((PROFILES,))
    plain = experiment.without(PROFILES)
    if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
        reader.add_fault(PROFILES, f"expected a mapping of profiles' names to changed keys ({origin})")
        return plain
    _check_profile_names(sections, reader, origin=origin)
    name = "" if profile is None else Path(profile).stem
    if name not in sections:
        return plain
    # Merging would add the axes of the section to the others; a smaller grid for one profile must replace them.
    if GRID in sections[name]:
        plain = plain.without(GRID)
    return merge(plain, _section_layer(experiment, (PROFILES, name), sections[name]))


def _check_profile_names(names: Iterable[str], reader: Reader, *, origin: str) -> None:
    # The sections of other profiles are checked too: one with a misspelt name would never be applied.
    allowed = yaml_names(reader.subfolders("profiles"))
    for name in names:
        if name not in allowed:
            reader.add_fault(f"{PROFILES}.{name}", f"{unknown('profile', name, allowed)} ({origin})")


def _section_layer(layer: Layer, path: KeyPath, values: dict[str, Any]) -> Layer:
    """A section of a layer as a layer of its own, whose keys keep their origins for messages."""
    depth = len(path)
    origins = {inner[depth:]: where for inner, where in layer.origins.items() if inner[:depth] == path}
    return Layer(values, {(): layer.origin(path[:1]), **origins})


def _apply_sweep_section(profile: Layer, *, is_varied: bool, reader: Reader) -> Layer:
    """The profile with its section `sweep` merged in where something is varied: a smaller budget for each cell."""
    changes = profile.values.get(SWEEP)
    plain = profile.without(SWEEP)
    if changes is None:
        return plain
    origin = profile.origin((SWEEP,))
    if not isinstance(changes, dict):
        reader.add_fault(SWEEP, f"expected a mapping of the keys that change for a cell of a sweep ({origin})")
        return plain
    section = _section_layer(profile, (SWEEP,), changes)
    for key in _experiment_keys(section).values:
        reader.add_fault(f"{SWEEP}.{key}", f"is a key of an experiment, not of a cell ({origin})")
    return merge(plain, _cell_keys(section)) if is_varied else plain


def _experiment_keys(layer: Layer) -> Layer:
    """The keys of the experiment as a whole: its axes, its ensembles and its stages."""
    for key in layer.values:
        if not _is_experiment_key(layer, key):
            layer = layer.without(key)
    return layer


def _cell_keys(layer: Layer) -> Layer:
    """The other keys, which are those of the recipe of a cell."""
    for key in layer.values:
        if _is_experiment_key(layer, key):
            layer = layer.without(key)
    return layer


def _is_experiment_key(layer: Layer, key: str) -> bool:
    # A list of seeds is an axis; a mapping is the section of the recipe.
    return key in (GRID, ENSEMBLES, STAGES) or (key == SEEDS and isinstance(layer.values.get(key), list))
