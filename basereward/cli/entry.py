"""Runs one command: what it prints goes where it belongs, and how it ends is a number."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from basereward.cli.arguments import parse
from basereward.cli.commands import COMMANDS, MISTAKE
from basereward.data.loading import loader_faults
from basereward.errors import BaseRewardError, explain
from basereward.io.files import disk_faults
from basereward.train.console import log_to_stderr

INTERRUPTED, CLOSED_PIPE = 130, 141
TELL_PROGRESS = ("train", "sweep")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 some cells failed, 2 a user's mistake, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    as_json = "--json" in argv
    sys.path.append(os.getcwd())  # where a class that a recipe names by its dotted path is likely to be
    try:
        arguments = parse(argv)
        level = logging.INFO if arguments.command in TELL_PROGRESS else logging.WARNING
        with stdout_to_stderr(), log_to_stderr(level), disk_faults(), loader_faults():
            result, status = COMMANDS[arguments.command].work(arguments)
        text = json.dumps(_strict(result)) if as_json else "\n".join(COMMANDS[arguments.command].text(result))
        print(text, flush=True)  # flushed here, where a closed pipe is still caught
    except BaseRewardError as error:
        print(f"basereward: {explain(error)}", file=sys.stderr)
        if as_json:
            print(json.dumps({"error": {"type": type(error).__name__, "message": explain(error)}}), flush=True)
        return MISTAKE
    except KeyboardInterrupt:
        print("basereward: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, `head` say, has what it wanted. Python would complain once more when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    return status


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """While a command works, whatever it or a process of its own prints goes to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _strict(value: Any) -> Any:
    """JSON knows no NaN: a measure that is not defined is null."""
    if isinstance(value, dict):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
