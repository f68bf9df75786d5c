"""Checkpoints of a run of reinforcement learning.

last.ckpt           names the folder of the last checkpoint, which is complete; with the best value so far
checkpoint-12/      trained weights; optimizer, schedule and random states, as transformers' trainer writes them
best.safetensors    the trained weights of the best validation; in its metadata the step and the metrics
"""

from __future__ import annotations

import json
import math
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from basereward.errors import CheckpointError, DamagedCheckpointError, RunError
from basereward.io.files import apply_umask, atomic_path, json_text, write_atomic
from basereward.io.limits import read_json_object
from basereward.model.saving.saved_model import copy_exactly
from basereward.runs.run_folder import RunFolder

LAST, BEST = "last.ckpt", "best.safetensors"
CARD = "best"
"""The key of the metadata that has the step and the metrics of the best validation, as JSON."""
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


def write_best(run: RunFolder, weights: Mapping[str, Tensor], *, step: int, metrics: Mapping[str, float]) -> None:
    """Write the weights of the best validation, with its step and metrics in the same file: a kill separates nothing.

    Args:
        run: whose folder of checkpoints it is.
        weights: trained ones by name.
        step: finished optimizer steps.
        metrics: of the validation.

    Raises:
        CheckpointError: the disk is full, or the folder cannot be written.
    """
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    save_weights(weights, run.checkpoints / BEST, metadata={CARD: json_text({"step": step, "metrics": finite})})


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
    try:
        with safe_open(file, framework="pt") as weights:
            card: dict[str, Any] = json.loads(weights.metadata()[CARD])
    except (TypeError, LookupError, ValueError) as error:
        raise DamagedCheckpointError(f"{_damage(file)}: it does not name its step. Start a new run") from error
    return card


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The trained weights of a policy by name; those that are shared once.

    >>> list(trained_weights(nn.Linear(2, 1)))
    ['weight', 'bias']
    """
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def save_weights(weights: Mapping[str, Tensor], file: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write weights; the file appears whole or not at all.

    Args:
        weights: by name.
        file: where to write; its folder is made.
        metadata: texts that are kept in the file.

    Raises:
        CheckpointError: the disk is full, or the folder cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as partial:
            tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
            save_file(tensors, partial, metadata=None if metadata is None else dict(metadata))
            apply_umask(partial)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"'{file}' cannot be written: {error}. Free disk space, and resume the run") from error


def load_weights(file: Path, model: nn.Module) -> None:
    """Load the trained weights of a policy.

    Args:
        file: of `save_weights`.
        model: the policy, without parallel wrappers.

    Raises:
        DamagedCheckpointError: the file cannot be read, or its weights are not those of the policy.
    """
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise DamagedCheckpointError(f"{_damage(file)}: {error}. Start a new run") from error
    if faults := copy_exactly(trained_weights(model), state):
        raise DamagedCheckpointError(f"'{file}' has other weights than the policy: {'; '.join(faults[:3])}")


def _damage(file: Path) -> str:
    return f"the checkpoint '{file}' is damaged"


def _flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
