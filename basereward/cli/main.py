"""Runs one command: prints its result to standard output, everything else to standard error, and returns the status."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence

from basereward.cli.command import USER_MISTAKE, Command
from basereward.cli.commands import COMMANDS
from basereward.cli.machine_faults import machine_fault, working_folder
from basereward.cli.parser import parse
from basereward.cli.streams import (
    check_streams,
    escape_control_characters,
    flush_stderr,
    print_to_stderr,
    redirect_to_null,
    stdout_to_stderr,
)
from basereward.data.loading import loader_faults
from basereward.errors import BaseRewardError, explain
from basereward.io.files import disk_faults, json_text
from basereward.io.logs import log_to_stderr
from basereward.io.processes import this_rank
from basereward.io.progress import announce, reporting
from basereward.io.progress.displays import NoDisplay
from basereward.io.secrets import redact
from basereward.recipe.trust import trusting

# 128 + SIGINT, as shells report it.
INTERRUPTED = 130
# 128 + SIGPIPE.
CLOSED_PIPE = 141
# Commands that run for minutes or hours log their progress; the others log only warnings.
LOGS_PROGRESS = ("train", "sweep", "resume", "serve")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the words after `basereward`; by default those of this process.

    Returns:
        The exit status: 0 success, 1 some cells failed, 2 a user's mistake or a fault of the machine, 130 interrupted,
        141 the reader of standard output has closed it.

    >>> main(["ls", "makers", "--json"])
    {"error": {"type": "UsageError", "message": "unknown kind 'makers'; did you mean 'tiny_models'?"}}
    2
    """
    argv = sys.argv[1:] if argv is None else argv
    # Not from the parser: a command line that cannot be parsed is answered with JSON too.
    as_json = "--json" in argv
    try:
        return _run(argv, as_json=as_json)
    except BaseRewardError as error:
        # torchrun and SLURM start this command several times, and the first process reports for all of them.
        if not this_rank().is_first and not getattr(error, "first_is_gone", False):
            return USER_MISTAKE
        return _report_error(explain(error), type(error).__name__, as_json=as_json)
    except KeyboardInterrupt as stop:
        # No traceback: the user knows where the interruption came from, but not how to continue.
        print_to_stderr("\n".join(["basereward: interrupted", *getattr(stop, "__notes__", [])]))
        return INTERRUPTED
    except Exception as error:
        message = machine_fault(error)
        if message is None:
            raise
        return _report_error(message, type(error).__name__, as_json=as_json)
    finally:
        flush_stderr()


def _run(argv: Sequence[str], *, as_json: bool) -> int:
    check_streams()
    folder = working_folder()
    arguments = parse(argv)
    command = COMMANDS[arguments.command]
    trust = getattr(arguments, "trust", False)
    if trust:
        # The console script, unlike `python -m`, does not search the working folder, where a user's class often is.
        sys.path.append(folder)
    level = logging.INFO if arguments.command in LOGS_PROGRESS else logging.WARNING
    is_first = this_rank().is_first
    if not is_first:
        # The first process says the same.
        level = logging.ERROR
        logging.disable(logging.WARNING)
    with (
        reporting(None if is_first else NoDisplay()), log_to_stderr(level),
        disk_faults(), loader_faults(), trusting(trust),
        _how_to_continue(command, argv),
    ):  # fmt: skip
        # Before the imports of the command, which may take many seconds.
        with stdout_to_stderr():
            announce(_activity(command, arguments))
        if command.start is not None and (closed := _start(command, arguments, as_json=as_json)):
            return closed
        # Standard output is for the result alone, so that `--json` can be parsed whatever libraries print.
        with stdout_to_stderr():
            result, status = command.run(arguments)
    # Of the processes of a run, the first one prints the result.
    if not this_rank().is_first:
        return status
    text = json_text(result) if as_json else "\n".join(command.format_text(result))
    return _print_result(escape_control_characters(text)) or status


def _start(command: Command, arguments: argparse.Namespace, *, as_json: bool) -> int:
    """Does the quick part of a command and prints its lines. Returns 0, or the exit status of a closed pipe."""
    assert command.start is not None
    with stdout_to_stderr():
        lines = list(command.start(arguments))
    return 0 if as_json or not lines else _print_result(escape_control_characters("\n".join(lines)))


def _activity(command: Command, arguments: argparse.Namespace) -> str:
    """What the command does, for its first line; empty for a command that answers at once."""
    values = dict(vars(arguments))
    for name, value in values.items():
        if value is None or isinstance(value, list):
            values[name] = " ".join(value or [])
    return escape_control_characters(redact(command.activity.format_map(values)))


@contextlib.contextmanager
def _how_to_continue(command: Command, argv: Sequence[str]) -> Iterator[None]:
    """Adds the command line to the interruption of a command that continues where it was stopped."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if command.continues:
            stop.add_note(f"what is done is kept; the same command continues: basereward {shlex.join(argv)}")
        raise


def _report_error(message: str, error_type: str, *, as_json: bool) -> int:
    """Prints why the command failed, without secrets; with `--json` also as an object on standard output."""
    # Messages quote values and addresses, which may hold a key or a password.
    message = redact(message)
    print_to_stderr(f"basereward: {message}")
    if as_json:
        _print_result(json.dumps({"error": {"type": error_type, "message": message}}))
    return USER_MISTAKE


def _print_result(text: str) -> int:
    """Prints to standard output.

    Returns:
        The exit status: 0, or that of a closed pipe or a full disk. The text is flushed here, because a failure when
        the interpreter exits could no longer be reported.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # The reader, such as `head`, has what it needs.
        redirect_to_null(1)
        return CLOSED_PIPE
    except OSError as error:
        redirect_to_null(1)
        print_to_stderr(
            f"basereward: the result cannot be written to standard output: {error.strerror}. Files that the command "
            "wrote are complete."
        )
        return USER_MISTAKE
    return 0
