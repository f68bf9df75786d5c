"""Checkpoints of a model that is divided among processes, which any number of processes can read.

last.ckpt                    everything but the tensors, and the name of the folder with them
last-00000012-9f2c41.shards  trained weights and optimizer states, by torch.distributed.checkpoint

Every process writes its parts into a folder under a temporary name. When all parts are there, the folder is renamed,
and only then the file that names it replaces the older one. A run that is killed in between resumes from the older
pair.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from basereward.errors import CheckpointError, DamagedCheckpointError
from basereward.io.files import free_space
from basereward.model.sharded import divided_like
from basereward.training.parallel.collectives import broadcast, is_first, wait_for_all

SHARDS = "shards"
"""Key of a checkpoint: the name of the folder with its tensors, beside the file."""
SUFFIX = ".shards"
KEYS = ("pytorch-lightning_version", "global_step", "loops", "state_dict", "optimizer_states")
"""Keys of every checkpoint, which Lightning writes and needs."""
WEIGHT, STATE = "weight", "optimizer"
"""First parts of the names of tensors in the folder."""

Tensors: TypeAlias = dict[str, Tensor]


def save_checkpoint(
    checkpoint: dict[str, Any], path: Path, *, write_file: Callable[[dict[str, Any], Path], None]
) -> None:
    """Write a checkpoint whose tensors are divided. All processes must call this.

    Args:
        checkpoint: what Lightning collects; its tensors are taken out.
        path: of the file.
        write_file: writes the file atomically.

    Raises:
        CheckpointError: the checkpoint cannot be written, on a full disk for example.
    """
    name = broadcast(f"{path.stem}-{checkpoint['global_step']:08d}-{secrets.token_hex(3)}{SUFFIX}")
    part, folder = path.parent / f".{name}.part", path.parent / name
    tensors, rest = _split(checkpoint)
    try:
        if is_first():
            part.mkdir(parents=True)
        wait_for_all()
        save(tensors, checkpoint_id=part)
    except (OSError, RuntimeError, CheckpointException) as error:
        raise CheckpointError(
            f"a checkpoint could not be written to '{folder}': {error} ({free_space(path)}); an earlier checkpoint is "
            "intact. Make room and run the command again, with --resume if there is an earlier checkpoint."
        ) from error
    wait_for_all()
    if is_first():
        part.rename(folder)
        write_file({**rest, SHARDS: name}, path)
        _remove_others(path, keep=name)


def _remove_others(path: Path, *, keep: str) -> None:
    """Remove the tensors of older checkpoints, which no file names any more."""
    for folder in path.parent.glob(f"{path.stem}-*{SUFFIX}"):
        if folder.name != keep:
            shutil.rmtree(folder, ignore_errors=True)


def _split(checkpoint: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """The tensors of weights and optimizer states by name, and the checkpoint without them."""
    tensors = {f"{WEIGHT}.{name}": weight for name, weight in checkpoint["state_dict"].items()}
    states = []
    for index, state in enumerate(checkpoint["optimizer_states"]):
        plain: dict[int, dict[str, Any]] = {}
        for number, values in state["state"].items():
            plain[number] = {key: value for key, value in values.items() if not isinstance(value, Tensor)}
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"{STATE}.{index}.{number}.{key}"] = value
        states.append({**state, "state": plain})
    return tensors, {**checkpoint, "state_dict": {}, "optimizer_states": states}


def read_checkpoint(
    path: Path, *, weights: Mapping[str, Tensor] | None = None, optimizers: Sequence[Optimizer] = ()
) -> dict[str, Any]:
    """Read a checkpoint, with or without divided tensors.

    Args:
        path: of the file.
        weights: trained weights by name; tensors of their names are divided as they are. None: all tensors are whole.
        optimizers: of these weights.

    Returns:
        What Lightning has collected. Tensors of a file without a folder are whole.

    Raises:
        DamagedCheckpointError: the checkpoint is damaged, is not one of a run, or holds more than data.
        CheckpointError: the system cannot read the file.
    """
    with _damage_explained(path):
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        _check_keys(checkpoint, path)
        if SHARDS in checkpoint:
            _add_shards(checkpoint, path.parent / checkpoint.pop(SHARDS), weights or {}, optimizers)
    return checkpoint


@contextlib.contextmanager
def _damage_explained(path: Path) -> Iterator[None]:
    """Turn what reading a damaged checkpoint raises into one error.

    The first bytes decide what torch and pickle raise: KeyError, IndexError, TypeError and many more besides their own.
    """
    try:
        yield
    except (CheckpointError, MemoryError):
        raise
    except OSError as error:
        if path.is_file() and isinstance(error, FileNotFoundError):
            raise _damaged(path, _damage(path, error)) from error
        reason = error.strerror or error
        raise CheckpointError(
            f"the checkpoint '{path}' cannot be read: {reason}. Make it readable, and run the command again"
        ) from error
    # CheckpointException of torch.distributed is no Exception.
    except (Exception, CheckpointException) as error:
        raise _damaged(path, _damage(path, error)) from error


def _damage(path: Path, error: BaseException) -> str:
    """What is wrong with the file. Messages of torch are about its own arguments, and are no help."""
    if path.stat().st_size == 0:
        return "it is empty"
    if not zipfile.is_zipfile(path):
        return "it is cut off, or is no file that training wrote"
    if isinstance(error, UnpicklingError):
        return "it holds more than tensors and plain data, which training never writes"
    return f"a part of it is missing or was changed ({type(error).__name__})"


def _damaged(path: Path, reason: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(
        f"the checkpoint '{path}' is damaged: {reason}. Put back a copy of it, or start a new run with "
        "`basereward train`"
    )


def _check_keys(checkpoint: Any, path: Path) -> None:
    """Check that the content is what Lightning wrote for a run, before Lightning reads it."""
    if not isinstance(checkpoint, dict):
        raise _damaged(path, f"it holds a {type(checkpoint).__name__} and not the state of a run")
    if missing := [key for key in KEYS if key not in checkpoint]:
        raise _damaged(path, f"it lacks {', '.join(missing)}")


def _add_shards(
    checkpoint: dict[str, Any], folder: Path, weights: Mapping[str, Tensor], optimizers: Sequence[Optimizer]
) -> None:
    """Add the tensors in the folder of a checkpoint to it."""
    tensors = _empty(folder, weights, optimizers)
    load(tensors, checkpoint_id=folder)
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == WEIGHT:
            checkpoint["state_dict"][rest] = tensor
        else:
            index, number, key = rest.split(".")
            checkpoint["optimizer_states"][int(index)]["state"][int(number)][key] = tensor


def _empty(folder: Path, weights: Mapping[str, Tensor], optimizers: Sequence[Optimizer]) -> Tensors:
    """A tensor for each one in a folder, divided as the weight that it belongs to."""
    owners = {f"{WEIGHT}.{name}": weight for name, weight in weights.items()}
    metadata = FileSystemReader(folder).read_metadata().state_dict_metadata
    tensors: Tensors = {}
    for name, stored in metadata.items():
        assert isinstance(stored, TensorStorageMetadata)
        owner = owners.get(name)
        if name.startswith(f"{STATE}."):
            index, number, _ = name.removeprefix(f"{STATE}.").split(".")
            owner = _parameters(optimizers[int(index)])[int(number)] if optimizers else None
        empty = torch.empty(stored.size, dtype=stored.properties.dtype)
        tensors[name] = empty if owner is None else divided_like(owner, empty)
    return tensors


def placed_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """The states of an optimizer, each tensor divided as its weight is.

    Args:
        optimizer: of the weights.
        state: from a checkpoint of any number of processes.

    >>> optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
    >>> placed_optimizer_state(optimizer, {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []})["state"]
    {0: {'exp_avg': tensor([1., 1.])}}
    """
    parameters = _parameters(optimizer)
    placed: dict[int, dict[str, Any]] = {}
    for number, values in state["state"].items():
        placed[number] = {
            key: divided_like(parameters[number], value) if isinstance(value, Tensor) else value
            for key, value in values.items()
        }
    return {**state, "state": placed}


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    """The weights of an optimizer by the numbers that they have in its state."""
    parameters: list[Tensor] = []
    for group in optimizer.param_groups:
        parameters += group["params"]
    return parameters
