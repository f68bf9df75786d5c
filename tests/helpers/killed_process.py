"""Run a training in a process of its own that can be killed at a chosen function call.

The processes are forked from a server that has only imported the libraries, so that each starts without import time.
"""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from tests.helpers.forked_program import begin_forked, fork_context


@dataclass(frozen=True)
class Moment:
    """The moment before the `call`-th call of a product function, counted from 1.

    Args:
        place: `module:function` or `module:Class.method`.
    """

    place: str
    call: int = 1
    signal: int = signal.SIGKILL


def train_in_process(
    experiment: str,
    overrides: Sequence[str],
    *,
    profile: str = "tiny",
    resume: str | None = None,
    kill: Moment | None = None,
    trust: bool = False,
) -> int:
    """Train in a process and return its exit code; a negative code is the signal that ended it."""
    process = start_training(experiment, overrides, profile=profile, resume=resume, kill=kill, trust=trust)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def start_training(
    experiment: str,
    overrides: Sequence[str],
    *,
    profile: str = "tiny",
    resume: str | None = None,
    kill: Moment | None = None,
    trust: bool = False,
) -> Any:
    """Start a process that trains."""
    context = fork_context()
    arguments = (dict(os.environ), os.getcwd(), experiment, list(overrides), profile, resume, kill, trust)
    process = context.Process(target=_train, args=arguments)
    process.start()
    return process


def _train(
    environment: dict[str, str],
    folder: str,
    experiment: str,
    overrides: list[str],
    profile: str,
    resume: str | None,
    kill: Moment | None,
    trust: bool,
) -> None:
    begin_forked(environment, folder)
    import torch

    from basereward.recipe import load_recipe
    from basereward.recipe.trust import trusting
    from basereward.rl.train import train

    torch.set_num_threads(1)
    if kill is not None:
        kill_at(kill)
    with trusting(trust):
        train(load_recipe(experiment, profile=profile, overrides=overrides), resume=resume)


def kill_at(moment: Moment) -> None:
    """Make this process send itself the signal at the given moment."""
    module, _, path = moment.place.partition(":")
    *outer, name = path.split(".")
    owner: Any = reduce(getattr, outer, importlib.import_module(module))
    original = getattr(owner, name)
    calls = 0

    def counted_call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == moment.call:
            os.kill(os.getpid(), moment.signal)
        return original(*args, **kwargs)

    setattr(owner, name, counted_call)
