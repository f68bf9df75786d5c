"""Run a command on a pseudo-terminal of its own, as a person does."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.forked_command import ForkedCommand

VARIABLES = {"TERM": "xterm"}
LIMIT_S = 900.0
"""Seconds after which a command that hangs is killed; no test expects it to take any time."""


@dataclass(frozen=True)
class TerminalResult:
    """What a command left.

    Attributes:
        code: exit status.
        output: all that the terminal got.
        errors: standard error, where it was a pipe.
    """

    code: int
    output: str
    errors: str = ""


def run_in_terminal(
    command: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    errors_to_pipe: bool = False,
    interrupt_when: Callable[[str], bool] | None = None,
) -> TerminalResult:
    """Run a command with its streams on a new terminal of 100 columns.

    Args:
        command: the program and its arguments.
        cwd: its working folder.
        environment: of the process; None: that of this one.
        errors_to_pipe: standard error is a pipe and no terminal.
        interrupt_when: given the output so far, says when Ctrl-C is typed; once.
    """
    ours, theirs = _open_terminal()
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**(environment or os.environ), **VARIABLES},
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE if errors_to_pipe else theirs,
        start_new_session=True,
        # A shell's background jobs ignore the signal, and so do their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(theirs)
    return _follow(process, ours, interrupt_when)


def run_basereward_in_terminal(
    *arguments: str,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    interrupt_when: Callable[[str], bool] | None = None,
) -> TerminalResult:
    """Run `basereward` with its streams on a new terminal, in a process that is forked; see `ForkedCommand`."""
    ours, theirs = _open_terminal()
    environment = {**(environment or os.environ), **VARIABLES}
    process = ForkedCommand(*arguments, cwd=cwd, environment=environment, terminal=theirs, new_group=True)
    os.close(theirs)
    return _follow(process, ours, interrupt_when)


def _open_terminal() -> tuple[int, int]:
    ours, theirs = pty.openpty()
    # A new terminal has no size.
    termios.tcsetwinsize(theirs, (40, 100))
    return ours, theirs


def _follow(process: Any, ours: int, interrupt_when: Callable[[str], bool] | None) -> TerminalResult:
    """Read what a process prints until it ends, and type Ctrl-C when it is time."""
    output = b""
    is_typed = interrupt_when is None
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.05)[0]:
            # Linux reports the end of a terminal whose other side is closed as an error.
            try:
                output += os.read(ours, 65536)
            except OSError:
                break
        elif process.poll() is not None:
            break
        if not is_typed and interrupt_when is not None and interrupt_when(output.decode(errors="replace")):
            is_typed = True
            # To the group, as a terminal does.
            os.killpg(process.pid, signal.SIGINT)
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    os.close(ours)
    _, errors = process.communicate()
    text = errors.decode() if isinstance(errors, bytes) else errors or ""
    return TerminalResult(process.returncode, output.decode(errors="replace"), text)
