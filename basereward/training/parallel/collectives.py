"""What the processes of a run tell each other. In a process by itself each function gives the value of this process.

Every process must call them in the same order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, distributed

from basereward.io.processes import this_rank

T = TypeVar("T")


def num_ranks() -> int:
    """The number of processes that train together.

    >>> num_ranks()
    1
    """
    return distributed.get_world_size() if _is_joined() else 1


def rank_number() -> int:
    """The number of this process among them, from 0.

    >>> rank_number()
    0
    """
    return distributed.get_rank() if _is_joined() else this_rank().number


def is_first() -> bool:
    """Whether this process writes for all of them.

    >>> is_first()
    True
    """
    return rank_number() == 0


def broadcast(value: T) -> T:
    """The value of the first process, on all of them.

    >>> broadcast("a value")
    'a value'
    """
    if num_ranks() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def gather(value: T) -> list[T]:
    """The values of all processes in the order of their numbers, on all of them.

    >>> gather("a value")
    ['a value']
    """
    if num_ranks() == 1:
        return [value]
    values: list[T | None] = [None] * num_ranks()
    distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # every place is filled now


def gather_tensor(value: Tensor) -> Tensor:
    """The tensors `(...)` of all processes, `(ranks, ...)`, on the device of `value`. The host does not wait.

    >>> gather_tensor(torch.tensor([1.0, 2.0]))
    tensor([[1., 2.]])
    """
    if num_ranks() == 1:
        return value[None]
    values = [torch.empty_like(value) for _ in range(num_ranks())]
    distributed.all_gather(values, value.contiguous())
    return torch.stack(values)


def wait_for_all() -> None:
    """Wait until every process is here.

    >>> wait_for_all()
    """
    # Not `barrier`, which may wait for the device: an object travels between the hosts.
    gather(None)


@contextlib.contextmanager
def first_on_machine() -> Iterator[None]:
    """A block that the first process of each machine runs before the others, which find in a cache what it computed.

    >>> with first_on_machine():
    ...     pass
    """
    is_other = this_rank().local > 0
    if is_other:
        wait_for_all()
    yield
    if not is_other:
        wait_for_all()
    # The first ones wait here too: a process that goes on alone could start the next collective meanwhile.
    wait_for_all()


def _is_joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()
