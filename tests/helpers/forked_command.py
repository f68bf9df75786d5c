"""The command `basereward` in a process of its own that does not start Python.

The process is forked from a server that has only imported the libraries. All else is as with `python -m basereward`:
its number, streams, signals and exit status. What a process does at its start is tested with a new interpreter.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from tests.helpers.forked_program import begin_forked, fork_context


class ForkedCommand:
    """A process with the members of `subprocess.Popen` that tests use.

    Args:
        arguments: the words after `basereward`.
        cwd: its working folder; None: that of this process.
        environment: all of its variables; None: those of this process.
        errors: an open file for standard error; None: `communicate` returns it.
        terminal: descriptor of a terminal for all three streams.
        new_group: begin a group of processes, which gets signals like those of a terminal.
        prepare: a function of a module, called in the process before the command.
    """

    def __init__(
        self,
        *arguments: object,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        errors: IO[Any] | None = None,
        terminal: int | None = None,
        new_group: bool = False,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        # Files and not pipes, which would block the process until somebody reads them. They close with this object.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        self._errors = errors if errors is not None else tempfile.TemporaryFile()  # noqa: SIM115
        with open(os.devnull) as null:
            streams = (null.fileno(), self._output.fileno(), self._errors.fileno())
            streams = streams if terminal is None else (terminal,) * 3
            connections = [Connection(os.dup(stream)) for stream in streams]
        words = [str(argument) for argument in arguments]
        settings = (dict(environment or os.environ), str(cwd or Path.cwd()), words, new_group, prepare)
        self._process = fork_context().Process(target=_run, args=(*connections, *settings))
        self._process.start()
        for connection in connections:
            connection.close()
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for the signal that ended the process; None while it runs."""
        code: int | None = self._process.exitcode
        return code

    def poll(self) -> int | None:
        """Return the exit code; None: the process runs."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("basereward", timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end, and return what was printed on both streams."""
        self.wait(timeout)
        texts = []
        for file in (self._output, self._errors):
            content = os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0) if file.readable() else b""
            texts.append(content.decode())
        return texts[0], texts[1]


def run_command(
    *arguments: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    process = ForkedCommand(*arguments, cwd=cwd, environment=environment)
    output, errors = process.communicate()
    return subprocess.CompletedProcess([str(argument) for argument in arguments], process.wait(), output, errors)


def begin_command(environment: dict[str, str], folder: str, streams: Iterable[Connection]) -> None:
    """Give a forked process what the shell gives a command: environment, folder, Ctrl-C, and the three streams."""
    # A shell's background jobs ignore the signal, and so do their children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    begin_forked(environment, folder)
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.path.insert(0, folder)


def _run(
    standard_input: Connection,
    standard_output: Connection,
    standard_error: Connection,
    environment: dict[str, str],
    folder: str,
    arguments: list[str],
    new_group: bool,
    prepare: Callable[[], None] | None,
) -> None:
    if new_group:
        os.setpgid(0, 0)
    begin_command(environment, folder, (standard_input, standard_output, standard_error))
    sys.argv = ["basereward", *arguments]
    if prepare is not None:
        prepare()
    # Its import handles SIGINT, as at the start of the command.
    from basereward.__main__ import run

    try:
        sys.exit(run())
    finally:
        # Processes of multiprocessing end without them.
        atexit._run_exitfuncs()
