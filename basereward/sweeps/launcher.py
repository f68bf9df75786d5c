"""The contract of a launcher, which runs the cells of a sweep, and the types that it works with.

To add a launcher, add a file with a class that has the members of `Launcher` to `basereward/sweeps/launchers`, and name
it: `basereward sweep EXPERIMENT --on NAME`. A class outside the package is named by its dotted path, with `--trust`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from basereward.errors import RecipeError, RunError
from basereward.recipe import Cell, make, recipe_yaml
from basereward.recipe.nodes import check_node
from basereward.recipe.schema import Node

METHODS = ("prepare", "has_room", "submit", "cancel", "close")
ATTRIBUTES = ("retries", "runs_here", "spans_machines", "gpu_memory")


class LostWorkerError(RunError):
    """The process of a cell was killed, or its machine was taken away; the cell itself may be right."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a cell runs on.

    Attributes:
        devices: processes of the run on each machine; each has a GPU, where the launcher has GPUs.
        nodes: machines.
        accelerator: `cpu`: the cell uses no GPU; `gpu`: it needs them; `auto`: it takes what there is.

    >>> Resources(devices=2, accelerator="auto").gpus(available=True)
    2
    """

    devices: int = 1
    nodes: int = 1
    accelerator: str = "auto"

    def gpus(self, *, available: bool) -> int:
        """GPUs of each machine.

        Args:
            available: whether the launcher's machines have GPUs.
        """
        return self.devices if self.accelerator == "gpu" or (self.accelerator == "auto" and available) else 0


@dataclass(frozen=True, slots=True)
class CellJob:
    """A cell that a launcher has to train.

    Attributes:
        cell: with its recipe, title and axes.
        parent: id of the sweep.
        resume: id of an interrupted run of this cell, which continues from its last checkpoint; None for a new run.
        label: where the sweep is, for the progress that the worker shows, as in `cell 2 of 7`.
    """

    cell: Cell
    parent: str
    resume: str | None = None
    label: str = ""

    @property
    def task(self) -> str:
        """The cell as JSON: what `basereward.sweeps.cell_worker.train_task` takes, in any process and on any machine.

        >>> from basereward.recipe import load_cells
        >>> (cell,) = load_cells("basereward", overrides=["optimizer.lr=1e-4"])
        >>> task = json.loads(CellJob(cell, parent="20260314-153012-9f2c41").task)
        >>> task["title"], task["axes"], "lr: 0.0001" in task["recipe"]
        ('basereward', {}, True)
        """
        # The recipe travels as YAML and not as an object: a worker on another machine may read it with another Python.
        cell = {"recipe": recipe_yaml(self.cell.recipe), "title": self.cell.title, "axes": self.cell.axes}
        return json.dumps({**cell, "label": self.label})


@dataclass(frozen=True, slots=True)
class CellOutcome:
    """The end of a job: exactly one of `result` and `error` is given.

    Attributes:
        job: the job that has ended.
        result: what `basereward.training.fit.train` returned; None for a failed cell.
        error: why the cell failed, as a message for the user; None for a finished cell.

    Raises:
        ValueError: both or neither are given.

    >>> from basereward.recipe import load_cells
    >>> (cell,) = load_cells("basereward")
    >>> CellOutcome(CellJob(cell, parent="20260314-153012-9f2c41"), error="CUDA out of memory").result is None
    True
    """

    job: CellJob
    result: Mapping[str, Any] | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        # A launcher of the user that loses the result would otherwise count as one whose cells finished.
        if (self.result is None) == (self.error is None):
            raise ValueError(f"the outcome of cell '{self.job.cell.name}' needs a result or an error, and not both")


class Launcher(Protocol):
    """Runs cells somewhere: in processes of this machine, or on a cluster that shares the folder of runs.

    The sweep calls its members from one thread: `prepare` at most once, `cancel` when the sweep is stopped, and `close`
    at the end in every case. The arguments of its constructor are the keys of `launcher` in a recipe.

    Attributes:
        retries: how often a cell is submitted again after `LostWorkerError`.
        runs_here: whether all cells run on this machine, so that its devices are checked before any of them starts.
        spans_machines: whether cells may run on other machines than this one; known after `prepare`.
        gpu_memory: GiB of each GPU, by which a cell without `trainer.devices` gets as many as it needs; None: one.
    """

    retries: int
    runs_here: bool
    spans_machines: bool

    @property
    def gpu_memory(self) -> float | None:
        """GiB of each GPU; None where it is not known, or there are none."""
        ...

    def prepare(self, needed: Sequence[Resources]) -> None:
        """Check that the cells can run, and start what takes time, such as a process that imports torch.

        Args:
            needed: of every cell that is not finished; at least one.

        Raises:
            BaseRewardError: there is no cluster, or it does not have what a cell needs. Nothing was submitted.
        """
        ...

    def has_room(self, resources: Resources) -> bool:
        """Whether a cell could start now. Until it is submitted, another sweep of the same grid can train it."""
        ...

    def submit(self, job: CellJob, resources: Resources) -> Future[dict[str, Any]]:
        """Train a cell, by `basereward.sweeps.cell_worker.train_task` in whatever process. It does not wait.

        Returns:
            The future of what `basereward.training.fit.train` returns. Its exception is a `BaseRewardError` for a cell
            that failed, `LostWorkerError` when the process or the machine of the cell was lost.
        """
        ...

    def cancel(self) -> None:
        """Stop every running cell, as Ctrl-C does: its run is marked as killed and can be resumed. May return early."""
        ...

    def close(self) -> None:
        """Wait until no cell runs, and release what the launcher holds. Calling it again does nothing."""
        ...


def make_launcher(node: Node | None) -> Launcher:
    """Make the launcher that a recipe names; without one, the cells run in processes of this machine.

    Args:
        node: the value of `launcher` in a recipe.

    Raises:
        RecipeError: as of `load_launcher`.

    >>> type(make_launcher(None)).__name__
    'Local'
    """
    settings = dict(node or {"_target_": "local"})
    return load_launcher(settings.pop("_target_", ""), **settings)


def load_launcher(name: str, **settings: Any) -> Launcher:
    """Make a launcher by its name or by the dotted path of its class.

    Args:
        name: the name of a file in `basereward/sweeps/launchers`, or the dotted path of a class outside the package,
            which needs the caller's `trusting` block.
        settings: arguments of the class.

    Raises:
        RecipeError: there is no such launcher, it is not trusted, or it lacks members of `Launcher`.

    >>> type(load_launcher("local")).__name__
    'Local'
    >>> load_launcher("locl")
    Traceback (most recent call last):
    basereward.errors.RecipeError: unknown launcher 'locl'; did you mean 'local'? Allowed: ...
    """
    node = {"_target_": name, **settings}
    _, faults = check_node(node, "launchers")
    if faults:
        # The user typed a name and not a node, so that the key `_target_` would only confuse.
        lines = [message if key == "_target_" else f"launcher.{key}: {message}" for key, message in faults]
        raise RecipeError("; ".join(lines))
    return check_launcher(make(node, "launchers"))


def check_launcher(launcher: Any) -> Launcher:
    """Check that an object has the members of `Launcher`.

    Raises:
        RecipeError: members are missing.

    >>> check_launcher(object())
    Traceback (most recent call last):
    basereward.errors.RecipeError: launcher 'object' lacks: prepare, has_room, submit, cancel, close, retries, ...
    """
    missing = [name for name in METHODS if not callable(getattr(launcher, name, None))]
    # Not by `hasattr`, which would ask the driver for the memory of its GPUs.
    missing += [name for name in ATTRIBUTES if name not in dir(launcher)]
    if missing:
        raise RecipeError(
            f"launcher '{type(launcher).__name__}' lacks: {', '.join(missing)}. See `Launcher` in "
            "basereward/sweeps/launcher.py for the members that it needs"
        )
    checked: Launcher = launcher
    return checked
