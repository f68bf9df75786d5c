"""Weights that FSDP2 divides among processes, for code that needs them whole or in parts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

FREES = "frees_after_forward"
"""Attribute of a divided module: whether its whole weights are freed after each pass."""


def divided_modules(module: nn.Module) -> list[FSDPModule]:
    """The modules whose weights are divided, the outer ones first.

    >>> divided_modules(nn.Linear(2, 2))
    []
    """
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


@contextlib.contextmanager
def whole_weights(module: nn.Module) -> Iterator[None]:
    """A block in which the weights of a module are whole on every process, and passes gather nothing.

    Processes generate texts of different lengths, so that they could not gather the weights of every pass together. All
    of them must begin and end the block.

    Args:
        module: with or without divided weights.

    >>> with whole_weights(nn.Linear(2, 2)):
    ...     pass
    """
    parts = divided_modules(module)
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            if getattr(part, FREES, False):
                part.set_reshard_after_forward(True, recurse=False)
                part.reshard()


def to_parts(module: nn.Module) -> None:
    """Free the whole weights that a pass without gradients may have left.

    Args:
        module: whose parameters are to be read or changed.

    >>> to_parts(nn.Linear(2, 2))
    """
    for part in divided_modules(module):
        part.reshard()


def own_part(weight: Tensor) -> Tensor:
    """The part of a weight that this process holds; a weight that is not divided is whole.

    >>> import torch
    >>> own_part(torch.ones(2)).tolist()
    [1.0, 1.0]
    """
    return weight.to_local() if isinstance(weight, DTensor) else weight


def whole(weight: Tensor) -> Tensor:
    """A weight with the parts of all processes, which must all call this.

    >>> import torch
    >>> whole(torch.ones(2)).tolist()
    [1.0, 1.0]
    """
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def divided_like(weight: Tensor, given: Tensor) -> Tensor:
    """A tensor divided as a weight of the same shape is.

    Args:
        weight: divided or not.
        given: whole, the same on all processes; or divided already.

    >>> import torch
    >>> divided_like(torch.ones(2), torch.zeros(2)).tolist()
    [0.0, 0.0]
    """
    if not isinstance(weight, DTensor) or isinstance(given, DTensor) or weight.shape != given.shape:
        return given
    device = weight.to_local().device
    # Every process cuts its part from its own copy; nothing is sent.
    return distribute_tensor(given.to(device), weight.device_mesh, weight.placements, src_data_rank=None)


def whole_state(module: nn.Module) -> Mapping[str, Tensor] | None:
    """All weights of a module by name, in the memory of the first process; empty on the others.

    Returns:
        None if nothing is divided, so that the weights of the module itself are whole.

    >>> whole_state(nn.Linear(2, 2)) is None
    True
    """
    if not divided_modules(module):
        return None
    to_parts(module)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_model_state_dict(module, options=options)
    return state
