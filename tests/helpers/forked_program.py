"""Programs, as text, in processes that can be killed.

The processes are forked from a server that has only imported the libraries, so that each starts without import time.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from multiprocessing.connection import Connection
from typing import Any

PRELOADED = ["tests.helpers.preloaded", "tests.helpers.forked_program"]


def fork_context() -> Any:
    """Return the context whose processes are forked from a server with imported libraries, one per test process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def begin_forked(environment: dict[str, str], folder: str) -> None:
    """Give a forked process its environment and working folder; the server has those of the first test.

    Its own processes start as those of any program do, and not from a server as this one.
    """
    multiprocessing.set_start_method(None, force=True)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)


class ForkedProgram:
    """A process with the members of `subprocess.Popen` that tests use, and with pipes as standard input and output.

    Args:
        module: whose names the program uses, beside `os` and `sys`.
        program: the text.
        arguments: `sys.argv[1:]` of the program.
    """

    def __init__(self, module: str, program: str, *arguments: object) -> None:
        context = fork_context()
        child_input, to_child = context.Pipe(duplex=False)
        from_child, child_output = context.Pipe(duplex=False)
        arguments_text = [str(argument) for argument in arguments]
        environment = dict(os.environ)
        self._process = context.Process(
            target=_run, args=(child_input, child_output, environment, os.getcwd(), module, program, arguments_text)
        )
        self._process.start()
        child_input.close()
        child_output.close()
        self.stdin = os.fdopen(os.dup(to_child.fileno()), "w")
        self.stdout = os.fdopen(os.dup(from_child.fileno()), "r")
        to_child.close()
        from_child.close()

    @property
    def returncode(self) -> int | None:
        """The exit code; a negative code is the signal that ended the process."""
        code: int | None = self._process.exitcode
        return code

    def poll(self) -> int | None:
        """Return the exit code; None: the process runs."""
        return self.returncode

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Close the input, wait for the end, and return the rest of the output."""
        self.stdin.close()
        output = self.stdout.read()
        self.stdout.close()
        self._process.join(timeout)
        assert self._process.exitcode is not None, "the process has not ended"
        return output, None


def run_program(program: str, *arguments: object) -> tuple[int | None, str]:
    """Run a program that imports what it needs, and return its exit code and its output."""
    process = ForkedProgram("builtins", program, *arguments)
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    output, _ = process.communicate()
    return process.returncode, output


def _run(
    standard_input: Connection,
    standard_output: Connection,
    environment: dict[str, str],
    folder: str,
    module: str,
    program: str,
    arguments: list[str],
) -> None:
    begin_forked(environment, folder)
    os.dup2(standard_input.fileno(), 0)
    os.dup2(standard_output.fileno(), 1)
    standard_input.close()
    standard_output.close()
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.argv = ["-c", *arguments]
    names = {"os": os, "sys": sys, **vars(importlib.import_module(module))}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    input()
    exec(compile(program, "<program>", "exec"), names)
