"""Builds modules on torch's meta device, where weights have shapes and no values, so that nothing is allocated."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def build_on_meta_device(build: Callable[[], Module]) -> Module | None:
    """Builds a module to read its shapes, before the same call allocates it.

    Args:
        build: makes the module.

    Returns:
        The module; None if its constructor needs values, which the head of a user may do.

    >>> build_on_meta_device(lambda: nn.Linear(2**40, 2**20)).weight.shape
    torch.Size([1048576, 1099511627776])
    """
    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, NotImplementedError):
        # torch raises these for operations that read values, such as `.item()`.
        return None
