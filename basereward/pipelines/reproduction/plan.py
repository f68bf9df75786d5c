"""What `basereward reproduce` will do: the cells of a published table, and the benchmarks that they are measured on."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from basereward.errors import DataError, RecipeError, unknown
from basereward.evaluation.benchmarks.stand_in_names import stand_in_file
from basereward.evaluation.published.published_table import PublishedTable, reproducible_table
from basereward.recipe import Experiment, find_experiment, load_experiment
from basereward.sweeps.selection import select_cells

Measured = Literal["published", "stand_ins"]
MEASURED: tuple[Measured, ...] = ("published", "stand_ins")


@dataclass(frozen=True)
class TablePlan:
    """What is trained and measured for a table.

    Attributes:
        name: of the file of the table.
        table: as published.
        word: the experiment as it is loaded by name.
        experiment: with the cells and ensembles of the table's rows alone, or all if none of them is a row.
        on: whether the models are measured on the published benchmarks or on stand-ins of them.
        benchmarks: name or file of each benchmark -> the overrides of its arguments.
        command: that makes and continues the table.
        members_alone: names of cells that are trained as members of ensembles and are no rows, so that they are not
            measured; a text-only member could not be, on most benchmarks.

    >>> plan = plan_table("table_2")
    >>> plan.on, list(plan.benchmarks), len(plan.experiment.cells)
    ('stand_ins', ['stand_ins/vl_rewardbench', 'stand_ins/mm_rlhf_rewardbench'], 7)
    """

    name: str
    table: PublishedTable
    word: str
    experiment: Experiment
    on: Measured
    benchmarks: Mapping[str, Sequence[str]]
    command: str
    members_alone: tuple[str, ...] = ()

    @property
    def overrides(self) -> list[str]:
        """The overrides of the benchmarks, with their names."""
        given: list[str] = []
        for benchmark, changes in self.benchmarks.items():
            given += [f"{benchmark}.{change}" for change in changes]
        return given


def plan_table(
    given: str,
    *,
    profile: str = "tiny",
    overrides: Sequence[str] = (),
    experiment: str | None = None,
    on: str | None = None,
    benchmarks: Sequence[str] = (),
    only: Sequence[str] = (),
) -> TablePlan:
    """Find the table, its experiment and its benchmarks. No row is read.

    Args:
        given: as of `reproducible_table`.
        profile: that the experiment runs on.
        overrides: `key=value` of the experiment, and `BENCHMARK.key=value` of the table's benchmarks.
        experiment: one of those that reproduce the table; None: the first that is complete on the profile.
        on: `published` or `stand_ins`; None: stand-ins for backbones that are made here with random weights.
        benchmarks: some of those of the table; none: all.
        only: patterns of names of cells; none: the cells that are rows of the table.

    Raises:
        DataError: there is no such table, experiment of it, or benchmark of it.
        RecipeError: the experiment has faults, or a pattern matches no cell.
    """
    name, table = reproducible_table(given)
    chosen = _checked("benchmark", benchmarks, table.benchmarks) or table.benchmarks
    of_experiment, changes = _split(overrides, table.benchmarks, chosen)
    words = _checked("experiment", [experiment] if experiment else [], table.experiments) or table.experiments
    word, loaded = _load(words, profile, of_experiment)
    where = _measured_on(loaded, on)
    named = {stand_in_file(each) if where == "stand_ins" else each: changes[each] for each in chosen}
    selected = select_cells(loaded, only) if only else _of_table(loaded, table)
    options = _options(profile=profile, experiment=experiment, on=on, benchmarks=benchmarks, only=only)
    command = shlex.join(["basereward", "reproduce", name, *options, *overrides])
    alone = () if only else _members_alone(selected, table)
    return TablePlan(name, table, word, selected, where, named, command, alone)


def _split(
    overrides: Sequence[str], benchmarks: Sequence[str], chosen: Sequence[str]
) -> tuple[list[str], dict[str, list[str]]]:
    """The overrides of the experiment, and those of each benchmark without its name.

    Raises:
        DataError: one is of a benchmark that is left out.
    """
    of_experiment: list[str] = []
    changes: dict[str, list[str]] = {benchmark: [] for benchmark in benchmarks}
    for override in overrides:
        # No key of a recipe has the name of a benchmark.
        benchmark, _, change = override.partition(".")
        if benchmark not in changes:
            of_experiment.append(override)
        elif benchmark in chosen:
            changes[benchmark].append(change)
        else:
            raise DataError(f"'{override}': this benchmark is left out by --benchmark; leave the override out too")
    return of_experiment, changes


def _checked(kind: str, names: Sequence[str], allowed: Sequence[str]) -> list[str]:
    """The names, each once and in the order of those that are allowed.

    Raises:
        DataError: one is not allowed.
    """
    for name in names:
        if name not in allowed:
            raise DataError(unknown(f"{kind} of the table", name, allowed))
    return [name for name in allowed if name in names]


def _load(words: Sequence[str], profile: str, overrides: Sequence[str]) -> tuple[str, Experiment]:
    """The first experiment without faults on a profile.

    Raises:
        RecipeError: all have faults; the message is about the first.
    """
    for word in words:
        loaded, faults = find_experiment(word, profile=profile, overrides=overrides)
        if not faults and loaded.cells and not loaded.stages:
            return word, loaded
    loaded = load_experiment(words[0], profile=profile, overrides=overrides)
    raise RecipeError(f"'{loaded.name}' has stages and no cells; run it by `basereward train {words[0]}`")


def _measured_on(experiment: Experiment, given: str | None) -> Measured:
    for known in MEASURED:
        if given == known:
            return known
    if given is not None:
        raise DataError(unknown("kind of --on", given, MEASURED))
    # Published benchmarks take a model of random weights hours, and tell nothing about it.
    is_random = all(cell.recipe.model.backbone.make for cell in experiment.cells)
    return "stand_ins" if is_random else "published"


def _of_table(experiment: Experiment, table: PublishedTable) -> Experiment:
    """The experiment with the cells and ensembles that are rows of the table, and the members of these ensembles."""
    names = _row_names(table)
    ensembles = {name: recipe for name, recipe in experiment.ensembles.items() if name in names}
    members: set[str] = set()
    for recipe in ensembles.values():
        members.update([*recipe.members, *recipe.text])
    cells = [cell for cell in experiment.cells if cell.without_seeds in names or cell.name in members]
    # On a small profile the cells may be others than those of the paper.
    return dataclasses.replace(experiment, cells=cells, ensembles=ensembles) if cells else experiment


def _members_alone(selected: Experiment, table: PublishedTable) -> tuple[str, ...]:
    """The cells that are no rows of the table, beside others or ensembles that are."""
    names = _row_names(table)
    without_row = tuple(cell.name for cell in selected.cells if cell.without_seeds not in names)
    has_rows = len(without_row) < len(selected.cells) or not names.isdisjoint(selected.ensembles)
    # On a small profile no cell may be a row of the paper's table; then all are measured.
    return without_row if has_rows else ()


def _row_names(table: PublishedTable) -> set[str]:
    """The names of the cells and ensembles that are rows of the table."""
    names: set[str] = set()
    for row_names in table.joined.values():
        names.update(row_names)
    return names


def _options(
    *, profile: str, experiment: str | None, on: str | None, benchmarks: Sequence[str], only: Sequence[str]
) -> list[str]:
    options = ["--profile", profile]
    for name, value in (("--experiment", experiment), ("--on", on)):
        options += [name, value] if value else []
    for benchmark in benchmarks:
        options += ["--benchmark", benchmark]
    for pattern in only:
        options += ["--only", pattern]
    return options
