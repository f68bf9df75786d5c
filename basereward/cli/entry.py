"""Runs one command: what it prints goes where it belongs, and how it ends is a number."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence

from basereward.cli.arguments import parse
from basereward.cli.commands import COMMANDS, MISTAKE
from basereward.cli.machine_faults import machine_fault, working_folder
from basereward.cli.streams import check_streams, flush_errors, silence, stdout_to_stderr, tell, visible
from basereward.data.loading import loader_faults
from basereward.errors import BaseRewardError, explain
from basereward.io.files import disk_faults, json_text
from basereward.io.logs import log_to_stderr
from basereward.io.secrets import redact
from basereward.recipe.trust import trusting

INTERRUPTED, CLOSED_PIPE = 130, 141
TELL_PROGRESS = ("train", "sweep")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 some cells failed, 2 a user's mistake or a fault of the
    machine, 130 interrupted, 141 nobody reads the result."""
    argv = sys.argv[1:] if argv is None else argv
    as_json = "--json" in argv
    try:
        return _run(argv, as_json=as_json)
    except BaseRewardError as error:
        return _refuse(explain(error), type(error).__name__, as_json=as_json)
    except KeyboardInterrupt:
        tell("basereward: interrupted")
        return INTERRUPTED
    except Exception as error:
        message = machine_fault(error)
        if message is None:
            raise
        return _refuse(message, type(error).__name__, as_json=as_json)
    finally:
        flush_errors()


def _run(argv: Sequence[str], *, as_json: bool) -> int:
    check_streams()
    folder = working_folder()
    arguments = parse(argv)
    trust = getattr(arguments, "trust", False)
    if trust:  # a class that a recipe names by its dotted path is likely to be in the working folder
        sys.path.append(folder)
    level = logging.INFO if arguments.command in TELL_PROGRESS else logging.WARNING
    with stdout_to_stderr(), log_to_stderr(level), disk_faults(), loader_faults(), trusting(trust):
        result, status = COMMANDS[arguments.command].work(arguments)
    text = json_text(result) if as_json else "\n".join(COMMANDS[arguments.command].text(result))
    return _print(visible(text)) or status


def _refuse(message: str, kind: str, *, as_json: bool) -> int:
    """Say why nothing came of the command, without secrets."""
    message = redact(message)
    tell(f"basereward: {message}")
    if as_json:
        _print(json.dumps({"error": {"type": kind, "message": message}}))
    return MISTAKE


def _print(text: str) -> int:
    """Print to standard output; the exit status where that fails, else 0.

    Flushed here, where a closed pipe or a full disk can still be told.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        silence(1)  # the reader, `head` say, has what it wanted
        return CLOSED_PIPE
    except OSError as error:
        silence(1)
        tell(f"basereward: standard output takes nothing: {error.strerror}. What was made is kept; its result is lost.")
        return MISTAKE
    return 0
