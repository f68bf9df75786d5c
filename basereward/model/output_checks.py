"""What heads, losses and objectives of a user share in the checks where they are built."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from basereward.errors import ModelError


def check_initialized(module: nn.Module, kind: str) -> None:
    """Checks that the constructor of a module has called that of its base class.

    Without it every use of the module fails with an AttributeError, far from the cause.

    Args:
        module: of a user's own class.
        kind: what it is, for the message.

    Raises:
        ModelError: it has not.

    >>> class Head(nn.Module):
    ...     def __init__(self):
    ...         self.scale = 2.0
    >>> check_initialized(Head(), "head")
    Traceback (most recent call last):
        ...
    basereward.errors.ModelError: head 'Head' is not initialized: call `super().__init__(...)` first in its `__init__`
    """
    if "_parameters" not in vars(module):
        raise ModelError(
            f"{kind} '{type(module).__name__}' is not initialized: call `super().__init__(...)` first in its `__init__`"
        )


def describe_output(result: Any) -> str:
    """What a module returned, for a message: types, dtypes and shapes, no values.

    >>> import torch
    >>> describe_output((torch.zeros(2), {}))
    '(float32 of shape (2,), dict)'
    """
    if isinstance(result, Tensor):
        return f"{str(result.dtype).removeprefix('torch.')} of shape {tuple(result.shape)}"
    if not isinstance(result, tuple):
        return type(result).__name__
    return f"({', '.join(map(describe_output, result))})"
