"""The process of a sweep's cells or ensembles, without the seconds in which a new interpreter imports the libraries.

It is forked from the server of `forked_program`. All else is as with `python -m basereward.sweeps.cell_worker`: its
number, streams, signals and exit status. What a worker does at its start, or at the end of its parent, is tested with a
new interpreter in `tests/sweeps/test_sweep.py`.
"""

from __future__ import annotations

import atexit
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.helpers.forked_command import ForkedCommand, begin_command
from tests.helpers.forked_program import fork_context


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
