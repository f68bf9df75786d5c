"""Processes that work for this one, without the seconds in which a new interpreter imports the libraries.

They are forked from the server of `forked_program`. All else is as with `python -m basereward.sweeps.cell_worker` and
`basereward.io.processes.spawn`: number, streams, signals and exit status. What a worker does at its start, or at the
end of its parent, is tested with a new interpreter in `tests/sweeps/test_sweep.py` and `tests/serve/test_server.py`.
"""

from __future__ import annotations

import atexit
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.helpers.forked_command import ForkedCommand, begin_command
from tests.helpers.forked_program import begin_forked, fork_context


class ForkedWorker(ForkedCommand):
    """A process with the members of `subprocess.Popen` that `WorkerProcess` uses.

    Args:
        command: `[python, "-m", module, pid, *trust]`.
        env: all of its variables.
        stdin: ignored; its input is a pipe.
    """

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], stdin: int) -> None:
        _, _, module, _, *trust = command
        context = fork_context()
        child_input, to_child = context.Pipe(duplex=False)
        streams = [child_input, *(Connection(os.dup(number)) for number in (1, 2))]
        self._process: Any = context.Process(target=_work, args=(*streams, dict(env), str(Path.cwd()), module, trust))
        self._process.start()
        for stream in streams:
            stream.close()
        self.stdin = os.fdopen(os.dup(to_child.fileno()), "w")
        to_child.close()
        self.pid = self._process.pid


def _work(
    standard_input: Connection,
    standard_output: Connection,
    standard_error: Connection,
    environment: dict[str, str],
    folder: str,
    module: str,
    trust: list[str],
) -> None:
    begin_command(environment, folder, (standard_input, standard_output, standard_error))
    try:
        # Its parent is the server, which ends with the test process.
        sys.exit(importlib.import_module(module).main(str(os.getppid()), *trust))
    finally:
        # Processes of multiprocessing end without them.
        atexit._run_exitfuncs()


def spawn_forked(work: Callable[[Connection, Any], None], setup: Any, *, name: str) -> tuple[Any, Connection]:
    """Start a process as `basereward.io.processes.spawn` does."""
    context = fork_context()
    ours, theirs = context.Pipe()
    arguments = (dict(os.environ), str(Path.cwd()), work, theirs, setup)
    process = context.Process(target=_work_over, args=arguments, name=name, daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _work_over(
    environment: dict[str, str],
    folder: str,
    work: Callable[[Connection, Any], None],
    connection: Connection,
    setup: Any,
) -> None:
    begin_forked(environment, folder)
    # Its parent is the server, which ends with the test process.
    work(connection, setup._replace(parent=os.getppid()))
