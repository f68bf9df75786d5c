"""The parts of one command: its arguments, its work, and its result as text."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from basereward.errors import BaseRewardError

SUCCESS, SOME_FAILED, USER_MISTAKE = 0, 1, 2
"""Exit statuses. `SOME_FAILED`: a sweep has failed cells or ensembles; the others are complete."""

LOADING_LIBRARIES = "loading PyTorch and transformers"
"""The phase in which a command imports what it needs, which takes seconds."""

CommandResult: TypeAlias = tuple[dict[str, Any], int]
"""The object that `--json` prints, and the exit status."""


class UsageError(BaseRewardError):
    """The command line itself is wrong.

    >>> raise UsageError("--rows 0: at least 1 is needed")
    Traceback (most recent call last):
    basereward.cli.command.UsageError: --rows 0: at least 1 is needed
    """


def accept_arguments(arguments: argparse.Namespace) -> None:
    """The check of a command whose arguments argparse checks completely.

    >>> accept_arguments(argparse.Namespace())
    """


@dataclass(frozen=True)
class Command:
    """One command of `basereward`.

    Attributes:
        summary: one line for the list of commands; it is also the description in the command's own help.
        examples: complete command lines, shown at the end of the command's help.
        add_arguments: adds the command's arguments to its parser. `--json` and `--trust` are added for all commands.
        run: does the work and returns the result and the exit status. It imports heavy packages only after the checks.
        format_text: turns the result into lines for a person.
        check_arguments: raises UsageError for values that argparse cannot check.
        start: the quick part of the work, whose lines are printed before `run`; it leaves its result in the arguments.
        activity: what the command does, with the names of arguments in braces. It is printed to standard error at once.
            Empty for a command that answers at once.
        continues: whether the same command line, after Ctrl-C, continues where it stopped.
        takes_trust: whether the command can run classes from outside the package, and so has the option `--trust`.

    >>> hello = Command(
    ...     summary="print a greeting",
    ...     examples=("basereward hello",),
    ...     add_arguments=lambda parser: None,
    ...     run=lambda arguments: ({"text": "hello"}, SUCCESS),
    ...     format_text=lambda result: iter([result["text"]]),
    ... )
    >>> list(hello.format_text(hello.run(argparse.Namespace())[0]))
    ['hello']
    """

    summary: str
    examples: tuple[str, ...]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], CommandResult]
    format_text: Callable[[dict[str, Any]], Iterator[str]]
    check_arguments: Callable[[argparse.Namespace], None] = accept_arguments
    start: Callable[[argparse.Namespace], Iterator[str]] | None = None
    takes_trust: bool = True
    activity: str = ""
    continues: bool = False
