"""Find the sweeps of an experiment by their settings: the overrides with which its cells were trained."""

from __future__ import annotations

import hashlib
import re
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from basereward.errors import DataError, RecipeError, format_count, unknown
from basereward.evaluation.reports.experiment.differences import IGNORED_KEYS
from basereward.recipe import Experiment, load_experiment, recipe_sha256
from basereward.recipe.yaml.files import read_yaml
from basereward.runs.params import flatten
from basereward.runs.run_folder import RunFolder, list_runs

DEFAULT = "default"
"""The name of the sweep without overrides."""
# A run that differs from each cell in more keys than this belongs to another experiment of the same name.
MAX_DIFFERENCES = 3
# Characters of the name of a folder.
MAX_NAME = 80


@dataclass(frozen=True)
class SweepSettings:
    """The settings of a sweep of an experiment, and how many of its cells are finished.

    >>> experiment = load_experiment("head_depth", overrides=["trainer.steps=30"])
    >>> SweepSettings("head_depth", experiment).name, SweepSettings("head_depth", experiment).is_complete
    ('trainer.steps=30', False)
    """

    word: str
    """the experiment as the command line names it"""
    experiment: Experiment
    newest: float = 0.0
    """when its newest finished run was created, in seconds since 1970; 0 without one"""
    finished: int = 0
    """cells with a finished run"""
    sweep_ids: Sequence[str] = field(default=())

    @property
    def name(self) -> str:
        """The overrides, or `default`; also the name of the folder of its page."""
        overrides = self.experiment.overrides
        if not overrides:
            return DEFAULT
        text = ",".join(overrides)
        name = re.sub(r"[^\w.,=+-]+", "_", text).strip("._") or "_"
        if name == text and name != DEFAULT and len(name) <= MAX_NAME:
            return name
        # Different overrides must not share a folder when characters are replaced or cut.
        return f"{name[:MAX_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"

    @property
    def is_complete(self) -> bool:
        """Whether every cell is finished."""
        return self.finished == len(self.experiment.cells)

    @property
    def date(self) -> str:
        """The day of the newest finished run; empty without one."""
        return time.strftime("%Y-%m-%d", time.localtime(self.newest)) if self.newest else ""

    @property
    def report_command(self) -> str:
        """The command that makes the page of these settings."""
        command = ["basereward", "report", self.word]
        if self.experiment.profile != "tiny":
            command += ["--profile", str(self.experiment.profile)]
        return shlex.join([*command, *(self.experiment.overrides or ("--sweep", DEFAULT))])

    def as_dict(self) -> dict[str, object]:
        """What the command prints with `--json` about a sweep that the page is not about."""
        return {
            "name": self.name,
            "overrides": list(self.experiment.overrides),
            "cells": len(self.experiment.cells),
            "finished": self.finished,
            "date": self.date,
            "command": self.report_command,
        }


def find_settings(word: str, *, profile: str) -> list[SweepSettings]:
    """Find the settings under which cells of an experiment are finished, the newest first.

    A sweep records its overrides. Those of other runs are the keys in which their recipes differ from the nearest cell.
    The settings without overrides are always there, also if no run is finished.

    Args:
        word: the name of the experiment, or the path of its YAML file.
        profile: the experiment is compiled for.

    Raises:
        RecipeError: the experiment is wrong.
    """
    return _Search(word, profile).settings()


def choose(settings: Sequence[SweepSettings], *, sweep: str | None = None) -> SweepSettings:
    """Choose the settings of a page.

    Args:
        settings: as `find_settings` returns them.
        sweep: the name of settings, or the id of a sweep; None: the newest complete ones, or else those with the most
            finished cells.

    Raises:
        DataError: no settings have this name or id.
    """
    if sweep is None:
        complete = [one for one in settings if one.is_complete]
        # `max` gives the first of equal ones, which is the newest.
        return complete[0] if complete else max(settings, key=lambda one: one.finished)
    for one in settings:
        if sweep == one.name or sweep in one.sweep_ids:
            return one
    raise DataError(unknown("sweep", sweep, [one.name for one in settings]))


class _Search:
    """The finished runs, and the experiment compiled with each set of overrides that occurs among them."""

    def __init__(self, word: str, profile: str) -> None:
        self._word, self._profile = word, profile
        self._base = load_experiment(word, profile=profile)
        if self._base.stages:
            sweeps = [stage.node["experiment"] for stage in self._base.stages if stage.node["_target_"] == "sweep"]
            pages = [f" `basereward report {name} --profile {profile}` compares those of its sweep." for name in sweeps]
            raise RecipeError(
                f"'{word}' has stages, and a page compares cells.{''.join(pages)} `basereward train {word}` prints its "
                "measures, and repeats no finished stage; MLflow has them too"
            )
        self._newest: dict[str, RunFolder] = {}
        for run in list_runs():
            # The newest runs are listed first.
            if run.state == "finished":
                self._newest.setdefault(run.status["recipe_sha256"], run)
        # Cells' hashes -> settings: overrides that give the same cells are the same settings.
        self._found: dict[frozenset[str], SweepSettings] = {}

    def settings(self) -> list[SweepSettings]:
        self._add((), self._base)
        for sweep in list_runs(kind="sweep"):
            recorded = sweep.settings
            if sweep.name == self._base.name and recorded.get("profile") == self._base.profile:
                self._compile(recorded.get("overrides", ()), sweep.run_id)
        for overrides in self._inferred():
            self._compile(overrides)
        return sorted(self._found.values(), key=lambda one: one.newest, reverse=True)

    def _compile(self, overrides: Iterable[str], sweep_id: str | None = None) -> None:
        try:
            experiment = load_experiment(self._word, profile=self._profile, overrides=overrides)
        except RecipeError:
            # The settings of an earlier version of the experiment; its runs have no page any more.
            return
        self._add(overrides, experiment, sweep_id)

    def _add(self, overrides: Iterable[str], experiment: Experiment, sweep_id: str | None = None) -> None:
        hashes = frozenset(recipe_sha256(cell.recipe) for cell in experiment.cells)
        runs = [self._newest[sha256] for sha256 in hashes if sha256 in self._newest]
        if not runs and tuple(overrides):
            return
        earlier = self._found.get(hashes)
        ids = [*(earlier.sweep_ids if earlier else ()), *([sweep_id] if sweep_id else [])]
        newest = max((float(run.status["created"]) for run in runs), default=0.0)
        compiled = earlier.experiment if earlier else experiment
        self._found[hashes] = SweepSettings(self._word, compiled, newest, len(runs), ids)

    def _inferred(self) -> dict[tuple[str, ...], None]:
        """The overrides of finished runs that belong to no settings so far."""
        known = frozenset().union(*self._found)
        cells = [_flat(asdict(cell.recipe)) for cell in self._base.cells]
        inferred: dict[tuple[str, ...], None] = {}
        for sha256, run in self._newest.items():
            recipe = {} if sha256 in known else _recipe_of(run)
            if recipe.get("name") != self._base.name:
                continue
            flat = _flat(recipe)
            # The cell that the run is closest to is the one that it was probably meant to be.
            changes = min((_changes(flat, cell) for cell in cells), key=len)
            if 0 < len(changes) <= MAX_DIFFERENCES:
                inferred[tuple(changes)] = None
        return inferred


def describe(settings: SweepSettings) -> str:
    """Describe settings in one line: their name, the finished cells, the date, and the command for their page.

    >>> describe(SweepSettings("head_depth", load_experiment("head_depth")))
    'default: 0 of 7 cells finished; basereward report head_depth --sweep default'
    """
    number = format_count(len(settings.experiment.cells), "cell")
    date = f", {settings.date}" if settings.date else ""
    return f"{settings.name}: {settings.finished} of {number} finished{date}; {settings.report_command}"


def page_folder(root: Path, settings: SweepSettings) -> Path:
    """The folder of the page of a sweep: `root`/PROFILE/EXPERIMENT/SWEEP.

    >>> settings = SweepSettings("head_depth", load_experiment("head_depth"))
    >>> page_folder(Path("reports"), settings).as_posix()
    'reports/tiny/head_depth/default'
    """
    word = settings.word
    stem = Path(word).stem if word.endswith((".yaml", ".yml")) else word
    return root / str(settings.experiment.profile) / stem / settings.name


def _recipe_of(run: RunFolder) -> Mapping[str, object]:
    try:
        return read_yaml(run.recipe)
    except (RecipeError, OSError):
        # Other runs are of use without the one whose folder is damaged.
        return {}


def _flat(recipe: Mapping[str, object]) -> dict[str, str]:
    flat = flatten({key: value for key, value in recipe.items() if key not in IGNORED_KEYS})
    # A key that is null means the same as one that is absent.
    return {key: value for key, value in flat.items() if value != "null"}


def _changes(run: Mapping[str, str], cell: Mapping[str, str]) -> list[str]:
    """`key=value` of every key whose value in the run is not that of the cell."""
    return [f"{key}={run.get(key, 'null')}" for key in {**cell, **run} if run.get(key) != cell.get(key)]
