"""Starts the processes of a run, or joins those that torchrun or SLURM has started.

On one machine `basereward` starts a process for every device but the first, for which this process trains itself. They
train the same recipe by the same code; see `worker`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # of torch's C++ part

from basereward.errors import BaseRewardError, RankError, RecipeError, explain
from basereward.io.interrupts import popen_with_interrupts_blocked
from basereward.io.processes import Rank, changed_environment, own_variables, this_rank
from basereward.recipe.checks.parallel import num_devices, num_ranks
from basereward.recipe.schema import Recipe
from basereward.training.parallel.collectives import broadcast
from basereward.training.parallel.link import STUCK_S, Link, Listener, connect

logger = logging.getLogger(__name__)

WORKER = "basereward.training.parallel.worker"
LINK_VARIABLE = "BASEREWARD_LINK"
"""Where a process that we started finds the first one; see `Listener.address`."""
WAIT = timedelta(hours=24)
"""How long a process waits for the others. Reading the data of the first one may take hours, and a process that ends is
noticed by its connection."""
CAUSE_S = 5.0
"""Seconds in which the failure of another process is noticed after this one could not reach it."""


def in_environment(recipe: Recipe) -> Recipe:
    """The recipe with the number of devices and machines that torchrun or SLURM has started processes for.

    Raises:
        RecipeError: the recipe names another number, above 1.

    >>> in_environment(Recipe()) == Recipe()
    True
    """
    place = this_rank()
    if place.starter not in ("torchrun", "slurm"):
        return recipe
    if num_ranks(recipe) not in (1, place.ranks):
        raise RecipeError(
            f"trainer.devices x trainer.nodes is {num_ranks(recipe)}, and {place.starter} has started {place.ranks} "
            "processes. Leave out both keys, or make them agree"
        )
    nodes = max(1, place.ranks // place.local_ranks)
    trainer = dataclasses.replace(recipe.trainer, devices=place.local_ranks, nodes=nodes)
    return dataclasses.replace(recipe, trainer=trainer)


@contextlib.contextmanager
def joined(recipe: Recipe, task: Mapping[str, Any], *, device: torch.device, worker: str = WORKER) -> Iterator[Link]:
    """A block in which all processes of a run work together. Without other processes the block runs by itself.

    When one process fails or is killed, the others end too, within half a minute.

    Args:
        recipe: of the run, after `in_environment`.
        task: JSON values for `worker`, in processes that are started here.
        device: kind of the devices.
        worker: the module that a process which is started here runs; it calls `worker.main`.

    Yields:
        The connections to the other processes.

    Raises:
        RankError: another process has failed.
        RecipeError: several machines, and neither torchrun nor SLURM.
    """
    link = Link()
    if num_ranks(recipe) == 1:
        yield link
        return
    with contextlib.ExitStack() as stack:
        if device.type == "cuda":
            torch.cuda.set_device(this_rank().local)
        _meet(recipe, task, device, worker=worker, link=link, stack=stack)
        stack.push(_leave)
        with _failing_together(link):
            yield link


def _meet(
    recipe: Recipe,
    task: Mapping[str, Any],
    device: torch.device,
    *,
    worker: str,
    link: Link,
    stack: contextlib.ExitStack,
) -> None:
    """Join the processes, and connect to them."""
    place = this_rank()
    # Objects travel between the hosts, and tensors between the devices.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if place.starter == "basereward":
        connect(link, os.environ[LINK_VARIABLE], number=place.number)
        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), None, False, WAIT)
        distributed.init_process_group(backend, store=store, rank=place.number, world_size=place.ranks, timeout=WAIT)
    elif place.starter in ("torchrun", "slurm"):
        environment = cluster_environment()
        assert environment is not None
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
        distributed.init_process_group(backend, rank=place.number, world_size=place.ranks, timeout=WAIT)
        _connect_all(link, place)
    else:
        if recipe.trainer.nodes > 1:
            raise RecipeError(
                f"trainer.nodes is {recipe.trainer.nodes}, and this process can start others on its own machine only. "
                "Start the command on every machine with torchrun or srun; see docs/how-to/train-on-several-gpus.md"
            )
        store = TCPStore("127.0.0.1", 0, None, True, WAIT, wait_for_workers=False)
        stack.enter_context(_started(num_devices(recipe), task, worker=worker, store=store, link=link))
        distributed.init_process_group(backend, store=store, rank=0, world_size=num_devices(recipe), timeout=WAIT)


def cluster_environment() -> ClusterEnvironment | None:
    """Lightning's description of processes that it has not started; None: it finds its own.

    >>> cluster_environment() is None
    True
    """
    starter = this_rank().starter
    if starter == "torchrun":
        return TorchElasticEnvironment()
    # Lightning would otherwise take the variables of a SLURM job in which they run.
    if starter == "basereward":
        return LightningEnvironment()
    # Without Lightning's own requeueing, which writes checkpoints of another kind.
    return SLURMEnvironment(auto_requeue=False) if starter == "slurm" else None


def _connect_all(link: Link, place: Rank) -> None:
    """Connect the processes that torchrun or SLURM has started; they have met already."""
    listener = Listener() if place.is_first else None
    # The first process runs on the machine of the main address, by which all others have reached it.
    address = broadcast(listener.address_at(os.environ["MASTER_ADDR"]) if listener is not None else "")
    if listener is None:
        connect(link, address, number=place.number)
    else:
        listener.accept(link, place.ranks)
        listener.close()


@contextlib.contextmanager
def _started(devices: int, task: Mapping[str, Any], *, worker: str, store: TCPStore, link: Link) -> Iterator[None]:
    """Start a process for every device but the first, and wait for their end after the block."""
    listener = Listener("127.0.0.1")
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), LINK_VARIABLE: listener.address}
    threads = torch.get_num_threads()
    # As many threads as cores in every process would make all of them slower.
    if "OMP_NUM_THREADS" not in os.environ:
        common["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // devices))
        torch.set_num_threads(int(common["OMP_NUM_THREADS"]))
    processes: list[subprocess.Popen[str]] = []
    try:
        for number in range(1, devices):
            place = own_variables(Rank("basereward", number, number, devices, devices))
            processes.append(_start(worker, task, os.environ | common | place))
        listener.accept(link, devices, check=lambda: _check_alive(processes))
        # Lightning changes some of them too.
        with changed_environment(common | own_variables(Rank("basereward", 0, 0, devices, devices))):
            yield
    except BaseException as error:
        # Those that have connected already would wait for this process.
        link.report(_description(error))
        raise
    finally:
        listener.close()
        _end(processes)
        torch.set_num_threads(threads)


def _start(worker: str, task: Mapping[str, Any], environment: Mapping[str, str]) -> subprocess.Popen[str]:
    # Standard output is for the result of this process alone.
    process = popen_with_interrupts_blocked(
        [sys.executable, "-m", worker], env=dict(environment), stdin=subprocess.PIPE, stdout=2
    )
    assert process.stdin is not None
    # A process that dies at once is noticed when it does not connect.
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(task))
        process.stdin.close()
    return process


def _check_alive(processes: Sequence[subprocess.Popen[str]]) -> None:
    """
    Raises:
        RankError: a process has ended before it could connect.
    """
    for number, process in enumerate(processes, start=1):
        if process.poll() is not None:
            raise RankError(
                f"process {number} (pid {process.pid}) ended with status {process.returncode} before the training; "
                "its output is above",
                first_is_gone=False,
            )


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Wait for processes that have been told to end, and kill those that do not."""
    for process in processes:
        try:
            process.wait(STUCK_S + CAUSE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _failing_together(link: Link) -> Iterator[None]:
    """Tell the others when the block fails, and raise the failure of another process when it is the cause."""
    try:
        yield
    except BaseException as error:
        fault = _cause(error, link)
        if fault is not None:
            raise RankError(fault, first_is_gone=link.first_is_gone) from error
        link.report(_description(error))
        raise
    finally:
        link.close()


def _cause(error: BaseException, link: Link) -> str | None:
    """The failure of another process that an error comes from; None for an error of this process."""
    # What libraries raise about a connection that was closed may have been explained as another fault, of the disk.
    origin = error.__cause__ if isinstance(error, BaseRewardError) else error
    if isinstance(origin, RuntimeError) and not isinstance(origin, BaseRewardError):
        return link.wait_for_fault(CAUSE_S)
    is_own = isinstance(error, BaseRewardError) or not isinstance(error, Exception)
    return None if is_own else link.fault


def _description(error: BaseException) -> str:
    if isinstance(error, BaseRewardError):
        return explain(error)
    if isinstance(error, Exception):
        return f"{type(error).__name__}: {error}"
    return "it was interrupted"


def _leave(kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
    """Leave the processes, so that this one can join others later."""
    # On a GPU this could wait for work that a process which is gone will never do. This one ends soon.
    if isinstance(error, RankError) and torch.cuda.is_available():
        return
    # Errors of the others have been reported already.
    with contextlib.suppress(RuntimeError):
        if distributed.is_initialized():
            distributed.destroy_process_group()
