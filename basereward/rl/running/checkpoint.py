"""Checkpoints of a run of reinforcement learning.

last.ckpt           names the folder of the last checkpoint, which is complete; with the best value so far
checkpoint-12/      trained weights; optimizer, schedule and random states, as transformers' trainer writes them
best.safetensors    the trained weights of the best validation, its step and metrics, and the scores of a judge
"""

from __future__ import annotations

import math
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from basereward.errors import CheckpointError, DamagedCheckpointError, RunError
from basereward.io.files import json_text, write_atomic
from basereward.io.limits import read_json_object
from basereward.model.saving.saved_model import copy_exactly
from basereward.runs.run_folder import RunFolder
from basereward.training.recording.best_weights import (
    BEST,
    read_card,
    read_weights,
    write_best_weights,
    write_tensors,
)

LAST = "last.ckpt"
WEIGHTS = "trained.safetensors"
FOLDERS = "checkpoint-*"
STATE = "trainer_state.json"
NEEDED = (WEIGHTS, "optimizer.pt", "scheduler.pt")
"""Files without which transformers' trainer would continue with a new optimizer, and raise no error."""


@dataclass(frozen=True, slots=True)
class LastCheckpoint:
    """What `last.ckpt` says.

    Attributes:
        folder: name of the folder of the checkpoint.
        step: finished optimizer steps.
        best: the best value of the monitored metric so far; None before there is one.
        first: metrics of the first step, with which signs of a collapse are compared.

    >>> LastCheckpoint("checkpoint-12", step=12).best is None
    True
    """

    folder: str
    step: int
    best: float | None = None
    first: Mapping[str, float] = field(default_factory=dict)


def write_last(run: RunFolder, last: LastCheckpoint) -> None:
    """Make a complete folder the last checkpoint, and remove the folders of earlier ones.

    Args:
        run: whose folder of checkpoints it is.
        last: names the folder.

    Raises:
        CheckpointError: the disk is full, or the folder cannot be written.

    >>> import tempfile
    >>> run = RunFolder(Path(tempfile.mkdtemp()))
    >>> for step in (1, 2):
    ...     (run.checkpoints / f"checkpoint-{step}").mkdir(parents=True)
    ...     write_last(run, LastCheckpoint(f"checkpoint-{step}", step=step))
    >>> sorted(path.name for path in run.checkpoints.iterdir())
    ['checkpoint-2', 'last.ckpt']
    """
    try:
        for file in (run.checkpoints / last.folder).rglob("*"):
            if file.is_file():
                _flush(file)
        # Last, so that it never names a folder that is not complete.
        write_atomic(run.checkpoints / LAST, json_text(asdict(last)) + "\n")
    except OSError as error:
        raise CheckpointError(f"the checkpoint '{run.checkpoints / last.folder}' cannot be written: {error}") from error
    for folder in run.checkpoints.glob(FOLDERS):
        if folder.name != last.folder:
            shutil.rmtree(folder, ignore_errors=True)


def read_last(run: RunFolder) -> LastCheckpoint | None:
    """The last checkpoint of a run; None if it has none.

    Raises:
        DamagedCheckpointError: it cannot be read, or its folder is not complete.

    >>> read_last(RunFolder(Path("/no/run"))) is None
    True
    """
    file = run.checkpoints / LAST
    if not file.exists():
        return None
    try:
        last = LastCheckpoint(**read_json_object(file, error=RunError))
        folder = run.checkpoints / last.folder
        read_json_object(folder / STATE, limit=2**30, error=RunError)
        for weights in folder.glob("*.safetensors"):
            with safe_open(weights, framework="pt"):
                pass
        damaged = [path.name for path in folder.glob("*.pt*") if not zipfile.is_zipfile(path)]
        damaged += [name for name in NEEDED if not (folder / name).is_file()]
    except (RunError, TypeError, OSError, SafetensorError) as error:
        raise DamagedCheckpointError(f"{_damage(file)}: {error}. Start a new run") from error
    if damaged:
        raise DamagedCheckpointError(f"{_damage(file)}: {', '.join(damaged)} is incomplete or missing. Start a new run")
    return last


def write_best(
    run: RunFolder,
    weights: Mapping[str, Tensor],
    *,
    step: int,
    metrics: Mapping[str, float],
    scores: str | None = None,
) -> None:
    """Write the weights of the best validation, with its step, metrics and scores in the same file.

    Args:
        run: whose folder of checkpoints it is.
        weights: trained ones by name.
        step: finished optimizer steps.
        metrics: of the validation.
        scores: the content of the file of its scores; None for a policy.

    Raises:
        CheckpointError: the disk is full, or the folder cannot be written.
    """
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    file = run.checkpoints / BEST
    with _explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_best_weights(file, weights, card={"step": step, "metrics": finite}, scores=scores)


def restore_best(run: RunFolder, model: nn.Module) -> dict[str, Any] | None:
    """Load the best weights into a model.

    Args:
        run: whose folder of checkpoints it is.
        model: the policy, without parallel wrappers.

    Returns:
        `step` and `metrics` of the best validation. None without a validation: the weights stay those of the last
        step.

    Raises:
        DamagedCheckpointError: the weights are not those of the policy.
    """
    file = run.checkpoints / BEST
    if not file.exists():
        return None
    load_weights(file, model)
    card = read_card(file)
    if card is None:
        raise DamagedCheckpointError(f"{_damage(file)}: it does not name its step. Start a new run")
    return card


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The trained weights of a policy by name; those that are shared once.

    >>> list(trained_weights(nn.Linear(2, 1)))
    ['weight', 'bias']
    """
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def save_weights(weights: Mapping[str, Tensor], file: Path) -> None:
    """Write weights; the file appears whole or not at all.

    Args:
        weights: by name.
        file: where to write; its folder is made.

    Raises:
        CheckpointError: the disk is full, or the folder cannot be written.
    """
    with _explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(file, weights)


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """
    Raises:
        CheckpointError: the file cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"'{file}' cannot be written: {error}. Free disk space, and resume the run") from error


def load_weights(file: Path, model: nn.Module) -> None:
    """Load the trained weights of a policy.

    Args:
        file: of `save_weights` or `write_best`.
        model: the policy, without parallel wrappers.

    Raises:
        DamagedCheckpointError: the file cannot be read, or its weights are not those of the policy.
    """
    if faults := copy_exactly(trained_weights(model), read_weights(file)):
        raise DamagedCheckpointError(f"'{file}' has other weights than the policy: {'; '.join(faults[:3])}")


def _damage(file: Path) -> str:
    return f"the checkpoint '{file}' is damaged"


def _flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
