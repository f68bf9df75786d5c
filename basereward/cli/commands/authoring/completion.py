"""`basereward completion`: a script with which a shell completes commands and options."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from basereward.cli.command import SUCCESS, Command, CommandResult, UsageError
from basereward.cli.options import check_choice

SHELLS = ("bash", "zsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the shell.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["bash"]).shell
    'bash'
    """
    parser.add_argument("shell", metavar="SHELL", help=f"shell that reads the script: {', '.join(SHELLS)}")


def check_arguments(arguments: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: an unknown shell.

    >>> check_arguments(argparse.Namespace(shell="fsh"))
    Traceback (most recent call last):
    basereward.cli.command.UsageError: unknown shell 'fsh'; did you mean 'zsh'? Allowed: bash, zsh.
    """
    check_choice("shell", arguments.shell, SHELLS)


def run(arguments: argparse.Namespace) -> CommandResult:
    """Makes the script from the parser of the whole command line, which is `arguments.root_parser`.

    Raises:
        UsageError: the optional package `shtab` is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise UsageError(
            "shell completion needs the package shtab, which is not installed; install it with "
            "`pip install shtab` or `pip install 'basereward[completion]'`"
        ) from error
    script = shtab.complete(arguments.root_parser, shell=arguments.shell)
    return {"shell": arguments.shell, "script": script}, SUCCESS


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """The script alone, so that the output can be evaluated or saved as it is.

    >>> list(format_text({"shell": "bash", "script": "complete -F _basereward basereward"}))
    ['complete -F _basereward basereward']
    """
    yield result["script"]


COMMAND = Command(
    summary="print a script that completes commands and options in bash or zsh",
    examples=('eval "$(basereward completion bash)"', 'basereward completion zsh > "${fpath[1]}/_basereward"'),
    add_arguments=add_arguments,
    check_arguments=check_arguments,
    run=run,
    format_text=format_text,
    takes_trust=False,
)
