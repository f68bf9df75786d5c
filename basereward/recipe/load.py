"""From the name of an experiment to its cells: read, merge, vary, check."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from basereward.errors import RecipeError
from basereward.io.secrets import SHORTEST, environment_secrets
from basereward.recipe.checks.check import Check
from basereward.recipe.checks.ensembles import ensembles
from basereward.recipe.checks.ranges import range_problems
from basereward.recipe.fault import EVERY_CELL, Fault, fold, format_faults
from basereward.recipe.grid import Axis, GridError, Point, axes, check_size, is_seed, points
from basereward.recipe.schema import EnsembleRecipe, Recipe
from basereward.recipe.text import build_recipe, recipe_sha256
from basereward.recipe.trust import REMEDY, is_trusted, trusting
from basereward.recipe.yaml.files import experiments_folder
from basereward.recipe.yaml.include import Reader
from basereward.recipe.yaml.interpolation import interpolate, texts_of
from basereward.recipe.yaml.merge import Layer, merge
from basereward.recipe.yaml.reading import GRID, YamlLayers, read_layers


@dataclass(frozen=True)
class Cell:
    """One point of a sweep's grid: its name, the value of every axis by key, and its complete recipe."""

    name: str
    without_seeds: str  # its name without its seeds, which cells that are runs of one recipe share
    overrides: dict[str, Any]
    recipe: Recipe
    axes: dict[str, str] = field(default_factory=dict)  # the label of every axis by its short name

    @property
    def title(self) -> str:
        """What its run is called where runs are compared: `head=2_silu seed=1`; the recipe's name without axes."""
        return " ".join(f"{name}={label}" for name, label in self.axes.items()) or self.recipe.name

    @property
    def seeds(self) -> dict[str, Any]:
        """The values of the axes that are seeds; none where they are not varied."""
        return {key: value for key, value in self.overrides.items() if is_seed(key)}


@dataclass(frozen=True)
class Experiment:
    """What is compared: cells, which are trained, and ensembles of them, by name."""

    name: str
    summary: str
    cells: list[Cell]
    ensembles: dict[str, EnsembleRecipe]


def load_recipe(
    experiment: str, *, profile: str | None = "tiny", overrides: Iterable[str] = (), trust: bool = False
) -> Recipe:
    """The recipe of an experiment that varies nothing.

    Args:
        experiment: a name in the folder of experiments, or a path to a YAML file.
        profile: what it runs on: a name in `profiles` of that folder, a path to a YAML file, or None for an experiment
            that says it all.
        overrides: `key=value`, dotted keys, values read as YAML; they win over everything else.
        trust: whether classes from outside of this package, and the Python files of a checkpoint, may run. `build` and
            `load` ask for the same word.

    Raises:
        RecipeError: anything is wrong with it, all of which the message lists; or it has several cells.
    """
    cells = load_cells(experiment, profile=profile, overrides=overrides, trust=trust)
    if len(cells) > 1:
        names = ", ".join(cell.name for cell in cells[:3])
        raise RecipeError(
            f"'{experiment}' is a sweep of {len(cells)} cells ({names}, ...), one recipe is expected; "
            "take one of load_cells(...), or the command `basereward sweep`, or drop its axes with grid=null"
        )
    return cells[0].recipe


def load_cells(
    experiment: str, *, profile: str | None = "tiny", overrides: Iterable[str] = (), trust: bool = False
) -> list[Cell]:
    """The cells of an experiment: every combination of its axes, or the one recipe that it is without them.

    Args: as of `load_recipe`.

    Raises:
        RecipeError: anything is wrong with any cell; `faults` holds all faults of all cells, the message lists them.
    """
    cells, faults = find_faults(experiment, profile=profile, overrides=overrides, trust=trust)
    if faults:
        raise refusal(experiment, faults)
    return cells


def refusal(experiment: str, faults: Sequence[Fault]) -> RecipeError:
    """The error that lists all faults."""
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return RecipeError("\n  ".join([f"{count} in recipe '{experiment}':", *format_faults(faults)]), faults)


def find_faults(
    experiment: str, *, profile: str | None = "tiny", overrides: Iterable[str] = (), trust: bool = False
) -> tuple[list[Cell], list[Fault]]:
    """The cells of an experiment and everything that is wrong with it, as `find_experiment`."""
    found, faults = find_experiment(experiment, profile=profile, overrides=overrides, trust=trust)
    return found.cells, faults


def load_experiment(
    experiment: str, *, profile: str | None = "tiny", overrides: Iterable[str] = (), trust: bool = False
) -> Experiment:
    """An experiment: its cells, and the ensembles that are made of them.

    Args: as of `load_recipe`.

    Raises:
        RecipeError: anything is wrong with it; `faults` holds all faults of all cells, the message lists them.
    """
    found, faults = find_experiment(experiment, profile=profile, overrides=overrides, trust=trust)
    if faults:
        raise refusal(experiment, faults)
    return found


def find_experiment(
    experiment: str, *, profile: str | None = "tiny", overrides: Iterable[str] = (), trust: bool = False
) -> tuple[Experiment, list[Fault]]:
    """An experiment and everything that is wrong with it. No model is loaded and no class is made.

    Where there are faults, the recipes of the cells hold defaults in the place of what is wrong: use only their names.
    """
    with trusting(trust):
        return _find_experiment(experiment, profile=profile, overrides=overrides)


def _find_experiment(
    experiment: str, *, profile: str | None, overrides: Iterable[str]
) -> tuple[Experiment, list[Fault]]:
    reader = Reader(experiments_folder())
    layers = read_layers(experiment, profile, overrides, reader)
    if layers is None:
        return Experiment(Path(experiment).stem, "", [], {}), reader.faults
    found = list(axes(layers.whole))
    for error in (axis for axis in found if isinstance(axis, GridError)):
        origin = layers.whole.origin(tuple(error.key.split(".", maxsplit=1)))
        reader.tell(error.key, f"{error} ({origin})")
    varied, at = [axis for axis in found if isinstance(axis, Axis)], layers.whole.origin((GRID,))
    try:
        check_size(varied)
    except GridError as error:
        reader.tell(error.key, f"{error} ({at})")
        varied = []
    grid = points(varied, origin=at)
    cells, faults = [], []
    for point in grid:
        cell, wrong = _cell(point, layers, reader=reader)
        cells.append(cell)
        faults += wrong
    names = [cell.name for cell in cells]
    together, wrong = ensembles(layers.whole, cells=names, recipes=[cell.without_seeds for cell in cells])
    faults = [*reader.faults, *fold(faults, cells=names), *wrong, *_equal_names(cells)]
    first = cells[0].recipe
    return Experiment(first.name, first.summary, cells, together), faults or _equal_cells(cells)


def _cell(point: Point, layers: YamlLayers, *, reader: Reader) -> tuple[Cell, list[Fault]]:
    layer = merge(layers.recipe, point.layer)
    for override in layers.overrides:
        layer = merge(layer, override)
    layer, problems = interpolate(layer)
    unread = [(fault.key, fault.message) for fault in reader.faults if fault.key]
    check = Check(layer, complete=reader.complete)
    recipe = build_recipe(check.values)
    problems += _new(check.faults, [*unread, *problems])
    if reader.complete:
        located = [(key, f"{message}{_origin(layer, key)}") for key, message in range_problems(recipe)]
        problems += _new(located, [*unread, *problems])
        problems += _secrets(recipe, layer)
        if recipe.model.backbone.trust_remote_code and not is_trusted():
            key = "model.backbone.trust_remote_code"
            problems.append((key, f"true runs the checkpoint's own Python files; {REMEDY}{_origin(layer, key)}"))
    name, without_seeds = point.name or recipe.name, point.without_seeds or recipe.name
    cell = Cell(name, without_seeds, point.overrides, recipe, point.axes)
    return cell, [Fault(name, key, message) for key, message in problems]


def _secrets(recipe: Recipe, layer: Layer) -> Iterator[tuple[str, str]]:
    """Texts that hold the value of a secret: a recipe is kept with every run and model, and sent to MLflow."""
    values = {value for value in environment_secrets() if len(value) >= SHORTEST}
    for path, text in texts_of(dataclasses.asdict(recipe), ()):
        if any(value in text for value in values):
            key = ".".join(map(str, path))
            yield key, f"holds the value of a secret environment variable, and a recipe is stored{_origin(layer, key)}"


def _new(problems: Iterable[tuple[str, str]], known: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those that do not follow from a known one: what could not be read need not be told to be missing."""
    paths = [f"{key}." for key, _ in known]
    return [
        (key, message)
        for key, message in problems
        if not any(f"{key}.".startswith(path) or path.startswith(f"{key}.") for path in paths)
    ]


def _origin(layer: Layer, key: str) -> str:
    origin = layer.origin(tuple(key.split(".")))
    return f" ({origin})" if origin else ""


def _equal_names(cells: Sequence[Cell]) -> list[Fault]:
    """A run that would be told as another of the same recipe and seeds."""
    names = {cell.name for cell in cells}
    runs = {(cell.without_seeds, str(cell.seeds)) for cell in cells}
    if min(len(names), len(runs)) == len(cells):
        return []
    return [Fault(EVERY_CELL, "grid", "labels with commas give two cells one name; give the values other labels")]


def _equal_cells(cells: Sequence[Cell]) -> list[Fault]:
    """Cells that would train the same model: an axis has two equal values, or an override hides it."""
    alike: dict[str, list[str]] = {}
    for cell in cells:
        alike.setdefault(recipe_sha256(cell.recipe), []).append(cell.name)
    reason = "two values of an axis mean the same, or an override hides an axis"
    return [
        Fault(EVERY_CELL, "grid", f"these cells are one and the same recipe: {', '.join(names)}; {reason}")
        for names in alike.values()
        if len(names) > 1
    ]
