"""Loads an experiment: reads its YAML, merges profile and overrides, expands the grid into cells, and checks them.

Nothing is imported or built, so that all faults of all cells are found in less than a second.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from basereward.errors import RecipeError, format_count
from basereward.io.secrets import SHORTEST, environment_secrets
from basereward.recipe.checks.check import Check
from basereward.recipe.checks.ensembles import read_ensembles
from basereward.recipe.checks.ranges import range_problems
from basereward.recipe.fault import EVERY_CELL, Fault, fold, format_faults
from basereward.recipe.grid import SEEDS, Axis, GridError, Point, axes, check_size, is_seed, points
from basereward.recipe.schema import EnsembleRecipe, Recipe
from basereward.recipe.stages import StageRecipe, read_stages
from basereward.recipe.text import build_recipe, recipe_sha256
from basereward.recipe.trust import REMEDY, is_trusted, trusting
from basereward.recipe.yaml.files import experiments_folders
from basereward.recipe.yaml.include import Reader
from basereward.recipe.yaml.interpolation import interpolate, texts_of
from basereward.recipe.yaml.merge import Layer, merge
from basereward.recipe.yaml.override import GRID
from basereward.recipe.yaml.reading import ENSEMBLES, STAGES, YamlLayers, read_layers


@dataclass(frozen=True)
class Cell:
    """One point of a sweep's grid.

    Attributes:
        name: the labels of all axes, as in `head=2_silu,seed=1`; the recipe's name where nothing is varied.
        without_seeds: the name without the axes of seeds, which all runs of one recipe have in common.
        overrides: the value of every axis by its key.
        recipe: the complete recipe.
        axes: the label of every axis by its short name.

    >>> load_cells("basereward")[0].title
    'basereward'
    """

    name: str
    without_seeds: str
    overrides: dict[str, Any]
    recipe: Recipe
    axes: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The name of its run in comparisons: `head=2_silu seed=1`; the recipe's name where nothing is varied."""
        return " ".join(f"{name}={label}" for name, label in self.axes.items()) or self.recipe.name

    @property
    def seeds(self) -> dict[str, Any]:
        """The values of the axes of seeds by key; empty where no seed is varied."""
        return {key: value for key, value in self.overrides.items() if is_seed(key)}


@dataclass(frozen=True)
class Experiment:
    """A loaded experiment.

    Attributes:
        name: the name of the first cell's recipe, by default that of the file.
        summary: the first comment of the file.
        cells: the recipes that are trained; with stages, those of the stages that train.
        ensembles: the ensembles of trained cells by name.
        profile: the name of the profile, without the folder and suffix of its file; None without a profile.
        overrides: the texts `key=value` that it was loaded with.
        stages: what is done one after the other, in this order; empty for a run or a sweep.

    >>> load_experiment("basereward", overrides=["optimizer.lr=1e-3"]).overrides
    ('optimizer.lr=1e-3',)
    """

    name: str
    summary: str
    cells: list[Cell]
    ensembles: dict[str, EnsembleRecipe]
    profile: str | None = None
    overrides: tuple[str, ...] = ()
    stages: tuple[StageRecipe, ...] = ()


def load_recipe(
    experiment: str, *, profile: str | None = "tiny", overrides: Iterable[str] = (), trust: bool = False
) -> Recipe:
    """Loads the recipe of an experiment that varies nothing.

    Args:
        experiment: a name in the folders of experiments (`./experiments` or `$BASEREWARD_EXPERIMENTS`, then that of the
            package), or a path to a YAML file.
        profile: what it runs on (backbone, data, batch, trainer): a name in `profiles` of those folders, or a path to
            a YAML file. None: the experiment is complete without a profile.
        overrides: texts `key=value` with dotted keys and values in YAML. They replace values of both files.
        trust: whether classes from outside this package, and the Python files of a checkpoint, may run. `build` and
            `load` have the same argument.

    Raises:
        RecipeError: the recipe has faults, all of which are in the message; or the experiment has several cells or
            stages.

    >>> load_recipe("basereward", overrides=["optimizer.lr=1e-3"]).optimizer.lr
    0.001
    """
    return only_recipe(load_experiment(experiment, profile=profile, overrides=overrides, trust=trust), experiment)


def only_recipe(loaded: Experiment, experiment: str) -> Recipe:
    """The recipe of an experiment that varies nothing and has no stages.

    Args:
        loaded: the experiment.
        experiment: as it was given, for the message.

    Raises:
        RecipeError: it has several cells, or stages.

    >>> only_recipe(load_experiment("basereward"), "basereward").name
    'basereward'
    """
    cells = loaded.cells
    if loaded.stages:
        names = ", ".join(stage.name for stage in loaded.stages)
        raise RecipeError(
            f"'{experiment}' has stages ({names}), one recipe is expected; run it by `basereward train {experiment}`, "
            "or from Python by basereward.pipelines.run.run_pipeline"
        )
    if len(cells) > 1:
        names = ", ".join(cell.name for cell in cells[:3])
        raise RecipeError(
            f"'{experiment}' is a sweep of {len(cells)} cells ({names}, ...), one recipe is expected; "
            "use one of load_cells(...), or the command `basereward sweep`, or remove its axes with grid=null"
        )
    return cells[0].recipe


def load_cells(
    experiment: str, *, profile: str | None = "tiny", overrides: Iterable[str] = (), trust: bool = False
) -> list[Cell]:
    """Loads the cells of an experiment: one for every combination of its axes, or a single one without axes.

    Args: as of `load_recipe`.

    Raises:
        RecipeError: a cell has a fault; `faults` has all faults of all cells, and the message lists them.

    >>> [cell.name for cell in load_cells("basereward", overrides=["grid={optimizer.lr: [1e-3, 1e-4]}"])]
    ['lr=0.001', 'lr=0.0001']
    """
    cells, faults = find_faults(experiment, profile=profile, overrides=overrides, trust=trust)
    if faults:
        raise recipe_error(experiment, faults)
    return cells


def recipe_error(experiment: str, faults: Sequence[Fault]) -> RecipeError:
    """The error that lists all faults.

    >>> str(recipe_error("mine", [Fault("*", "loss", "missing")])).splitlines()
    ["1 fault in recipe 'mine':", '  loss: missing']
    """
    head = f"{format_count(len(faults), 'fault')} in recipe '{experiment}':"
    return RecipeError("\n  ".join([head, *format_faults(faults)]), faults)


def find_faults(
    experiment: str, *, profile: str | None = "tiny", overrides: Iterable[str] = (), trust: bool = False
) -> tuple[list[Cell], list[Fault]]:
    """The cells of an experiment and all of its faults; see `find_experiment`.

    >>> cells, faults = find_faults("basereward", overrides=["optimizer.lr=-1"])
    >>> [(fault.key, fault.message.partition(";")[0]) for fault in faults]
    [('optimizer.lr', 'must be above 0')]
    """
    loaded, faults = find_experiment(experiment, profile=profile, overrides=overrides, trust=trust)
    return loaded.cells, faults


def load_experiment(
    experiment: str, *, profile: str | None = "tiny", overrides: Iterable[str] = (), trust: bool = False
) -> Experiment:
    """Loads an experiment: its cells, and the ensembles that are made of them.

    Args: as of `load_recipe`.

    Raises:
        RecipeError: there is a fault; `faults` has all faults of all cells, and the message lists them.

    >>> len(load_experiment("head_depth").cells)
    7
    """
    loaded, faults = find_experiment(experiment, profile=profile, overrides=overrides, trust=trust)
    if faults:
        raise recipe_error(experiment, faults)
    return loaded


def find_experiment(
    experiment: str, *, profile: str | None = "tiny", overrides: Iterable[str] = (), trust: bool = False
) -> tuple[Experiment, list[Fault]]:
    """Loads an experiment and collects its faults instead of raising them.

    Args: as of `load_recipe`.

    Returns:
        The experiment and its faults. With faults, the recipes of the cells have defaults in the place of wrong values,
        so that only the names of the cells can be used.

    >>> experiment, faults = find_experiment("basereward", overrides=["optimiser.lr=1"])
    >>> [fault.key for fault in faults]
    ['optimiser']
    """
    # A text is refused below: as a tuple it would be one override for each letter.
    overrides = overrides if isinstance(overrides, str) else tuple(overrides)
    with trusting(trust):
        loaded, faults = _find_experiment(experiment, profile=profile, overrides=overrides)
    profile_name = None if profile is None else Path(profile).stem
    return dataclasses.replace(loaded, profile=profile_name, overrides=tuple(overrides)), faults


def _find_experiment(
    experiment: str, *, profile: str | None, overrides: Iterable[str]
) -> tuple[Experiment, list[Fault]]:
    try:
        reader = Reader(experiments_folders())
    except RecipeError as error:
        return Experiment(Path(experiment).stem, "", [], {}), [Fault(EVERY_CELL, "", str(error))]
    layers = read_layers(experiment, profile, overrides, reader)
    if layers is None:
        return Experiment(Path(experiment).stem, "", [], {}), reader.faults
    if layers.experiment.values.get(STAGES):
        return _with_stages(layers, reader, profile=profile)
    cells, cell_faults = [], []
    for point in _read_points(layers, reader):
        cell, faults_of_cell = _make_cell(point, layers, reader=reader)
        cells.append(cell)
        cell_faults += faults_of_cell
    names = [cell.name for cell in cells]
    recipe_names = [cell.without_seeds for cell in cells]
    ensembles, ensemble_faults = read_ensembles(layers.experiment, cells=names, recipes=recipe_names)
    faults = [*reader.faults, *fold(cell_faults, cells=names), *ensemble_faults, *_equal_names(cells)]
    # There is always a cell: without axes the grid has one point.
    first = cells[0].recipe
    # Recipes with faults contain defaults, and would be equal because of them.
    return Experiment(first.name, first.summary, cells, ensembles), faults or _equal_cells(cells)


def _with_stages(layers: YamlLayers, reader: Reader, *, profile: str | None) -> tuple[Experiment, list[Fault]]:
    """An experiment with stages; the recipes of those that train are its cells."""
    cells: dict[str, Cell] = {}

    def make_recipe(name: str, layer: Layer) -> tuple[Recipe, list[Fault]]:
        cells[name], faults = _make_cell(Point(name, name, {}, layer, {"stage": name}), layers, reader=reader)
        return cells[name].recipe, faults

    for key in (GRID, SEEDS, ENSEMBLES):
        if layers.experiment.values.get(key):
            origin = layers.experiment.origin((key,))
            reader.add_fault(key, f"an experiment with stages varies nothing; remove this key ({origin})")
    stages, faults = read_stages(layers.experiment, make_recipe, profile=profile)
    # A stage that trains need not be there, so they are read here and not from a recipe.
    values = _with_overrides(layers.recipe, layers).values
    name, summary = (str(values.get(key) or "") for key in ("name", "summary"))
    in_order = [cells[stage.name] for stage in stages if stage.name in cells]
    return Experiment(name, summary, in_order, {}, stages=tuple(stages)), [*reader.faults, *faults]


def _read_points(layers: YamlLayers, reader: Reader) -> list[Point]:
    """The points of the grid without its wrong axes, which the reader records."""
    origin = layers.experiment.origin((GRID,))
    right_axes = []
    for axis in axes(layers.experiment):
        if isinstance(axis, Axis):
            right_axes.append(axis)
        else:
            axis_origin = layers.experiment.origin(tuple(axis.key.split(".", maxsplit=1)))
            reader.add_fault(axis.key, f"{axis} ({axis_origin})")
    try:
        check_size(right_axes)
    except GridError as error:
        reader.add_fault(error.key, f"{error} ({origin})")
        right_axes = []
    return points(right_axes, origin=origin)


def _make_cell(point: Point, layers: YamlLayers, *, reader: Reader) -> tuple[Cell, list[Fault]]:
    """The cell of a point, and its faults that the reader does not have yet."""
    # Overrides come last, so that a person who types `key=value` overrides the axes too.
    layer = _with_overrides(merge(layers.recipe, point.layer), layers)
    # Interpolations refer to the final values, so they are resolved after all merges.
    layer, problems = interpolate(layer)
    unread = [(fault.key, fault.message) for fault in reader.faults if fault.key]
    check = Check(layer, complete=reader.complete)
    recipe = build_recipe(check.values)
    # A key that could not be read or resolved would be reported once more as missing or of a wrong type.
    problems += _independent(check.faults, [*unread, *problems])
    # Ranges compare several keys, so they need all of them.
    if reader.complete:
        located = [(key, f"{message}{_origin(layer, key)}") for key, message in range_problems(recipe)]
        problems += _independent(located, [*unread, *problems])
        problems += _secret_problems(recipe, layer)
        problems += _trust_problems(recipe, layer)
    name, without_seeds = point.name or recipe.name, point.without_seeds or recipe.name
    cell = Cell(name, without_seeds, point.overrides, recipe, point.axes)
    return cell, [Fault(name, key, message) for key, message in problems]


def _with_overrides(layer: Layer, layers: YamlLayers) -> Layer:
    for override in layers.overrides:
        layer = merge(layer, override)
    return layer


def _trust_problems(recipe: Recipe, layer: Layer) -> Iterator[tuple[str, str]]:
    """A checkpoint that would run its own Python files, which the caller did not allow."""
    if recipe.model.backbone.trust_remote_code and not is_trusted():
        key = "model.backbone.trust_remote_code"
        yield key, f"true runs the checkpoint's own Python files; {REMEDY}{_origin(layer, key)}"


def _secret_problems(recipe: Recipe, layer: Layer) -> Iterator[tuple[str, str]]:
    """Texts with the value of a secret: a recipe is saved with every run and model, and sent to MLflow."""
    values = {value for value in environment_secrets() if len(value) >= SHORTEST}
    for path, text in texts_of(dataclasses.asdict(recipe), ()):
        # Anywhere in a text, since a secret is often a part of an address or a command.
        if any(value in text for value in values):
            key = ".".join(map(str, path))
            message = (
                f"contains the value of a secret environment variable, and a recipe is stored{_origin(layer, key)}"
            )
            yield key, message


def _independent(problems: Iterable[tuple[str, str]], known: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The problems that do not follow from a known one at the same key, above it or below it.

    A value that could not be read, for example, would be reported once more as missing.
    """
    known_paths = [f"{key}." for key, _ in known]
    independent = []
    for key, message in problems:
        path = f"{key}."
        if not any(path.startswith(known_path) or known_path.startswith(path) for known_path in known_paths):
            independent.append((key, message))
    return independent


def _origin(layer: Layer, key: str) -> str:
    origin = layer.origin(tuple(key.split(".")))
    return f" ({origin})" if origin else ""


def _equal_names(cells: Sequence[Cell]) -> list[Fault]:
    """A fault when two cells have one name, or one recipe name and equal seeds, so that their runs are confused."""
    names = {cell.name for cell in cells}
    runs = {(cell.without_seeds, str(cell.seeds)) for cell in cells}
    if min(len(names), len(runs)) == len(cells):
        return []
    return [Fault(EVERY_CELL, "grid", "labels with commas give two cells one name; give the values other labels")]


def _equal_cells(cells: Sequence[Cell]) -> list[Fault]:
    """A fault for each set of cells that would train the same model."""
    names_by_hash: dict[str, list[str]] = {}
    for cell in cells:
        names_by_hash.setdefault(recipe_sha256(cell.recipe), []).append(cell.name)
    reason = "two values of an axis are equal, or an override replaces the values of an axis"
    faults = []
    for names in names_by_hash.values():
        if len(names) > 1:
            message = f"these cells are one and the same recipe: {', '.join(names)}; {reason}"
            faults.append(Fault(EVERY_CELL, "grid", message))
    return faults
