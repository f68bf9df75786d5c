"""The parser of the command line, and what is said about a word that it does not know."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from basereward.cli.command import Command, UsageError
from basereward.cli.commands import COMMANDS
from basereward.errors import unknown


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print and exit, so that every mistake is reported in one place.

    >>> Parser(prog="basereward").parse_args(["--jsn"])
    Traceback (most recent call last):
    basereward.cli.command.UsageError: unrecognized arguments: --jsn
    usage: basereward [-h]
    """

    def error(self, message: str) -> NoReturn:
        """Raises UsageError with the usage of the command, where argparse would exit the process."""
        raise UsageError(f"{message}\n{self.format_usage().strip()}")

    def option_names(self) -> list[str]:
        """The long options, such as `--json`."""
        names = []
        for action in self._actions:
            names += [option for option in action.option_strings if option.startswith("--")]
        return names


class PrintVersion(argparse.Action):
    """Prints the version. Unlike argparse's own action, it reads the package's metadata only when asked."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        # This import would be a tenth of the time that --help takes.
        import importlib.metadata

        try:
            version = importlib.metadata.version("basereward")
        except importlib.metadata.PackageNotFoundError:
            version = "(version unknown: the package is not installed)"
        print(f"basereward {version}")
        parser.exit()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses and checks a command line; `KEY=VALUE` may stand before, between and after the options.

    Args:
        argv: the words after `basereward`.

    Raises:
        UsageError: an unknown command or option, a missing argument, or a value that is not allowed.

    >>> arguments = parse(["train", "basereward", "seeds.init=1", "--profile", "tiny", "optimizer.lr=1e-4"])
    >>> arguments.profile, arguments.overrides
    ('tiny', ['seeds.init=1', 'optimizer.lr=1e-4'])
    """
    parser, command_parsers = build_parser()
    _check_command(argv, parser.option_names())
    # Not `parse_args`, which would refuse the overrides that stand after an option.
    arguments, rest = parser.parse_known_args(argv)
    # argparse gives `nargs="*"` only the words that stand together; the overrides after an option are left over.
    for word in rest:
        # Only an override may stand here; anything else is an option or an argument that the command does not have.
        if word.startswith("-") or "=" not in word or "overrides" not in arguments:
            raise UsageError(_unexpected(word, arguments, command_parsers[arguments.command]))
        arguments.overrides.append(word)
    COMMANDS[arguments.command].check_arguments(arguments)
    return arguments


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the whole command line, and that of every command by name.

    >>> parser, command_parsers = build_parser()
    >>> list(command_parsers)[:3]
    ['check', 'data', 'audit']
    """
    parser = Parser(prog="basereward", description="Train, check and use multimodal reward models.", allow_abbrev=False)
    parser.add_argument("--version", action=PrintVersion, nargs=0, help="print the version and exit")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    # `completion` describes the whole parser, which is not among the arguments otherwise.
    parser.set_defaults(root_parser=parser)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    command_parsers: dict[str, Parser] = {}
    for name, command in COMMANDS.items():
        command_parsers[name] = subparsers.add_parser(
            name,
            help=command.summary,
            description=command.summary,
            epilog=_format_examples(command),
            # The default formatter would join the lines of the examples.
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _add_arguments(command_parsers[name], command)
    return parser, command_parsers


def _format_examples(command: Command) -> str:
    title = "example:" if len(command.examples) == 1 else "examples:"
    return "\n  ".join([title, *command.examples])


def _add_arguments(parser: Parser, command: Command) -> None:
    # Without SUPPRESS the default of this option would overwrite a --json before the command.
    parser.add_argument(
        "--json",
        action="store_true",
        default=argparse.SUPPRESS,
        help="print one JSON object and nothing else; logs go to standard error",
    )
    if command.takes_trust:
        parser.add_argument(
            "--trust",
            action="store_true",
            help="run classes and checkpoint code from outside this package (default: they are an error)",
        )
    command.add_arguments(parser)


def _check_command(argv: Sequence[str], options: Sequence[str]) -> None:
    """Checks the words up to the command. argparse would list all commands and name no near one.

    Raises:
        UsageError: an unknown command, or an unknown option before it.
    """
    for word in argv:
        if not word.startswith("-"):
            if word not in COMMANDS:
                raise UsageError(unknown("command", word, COMMANDS))
            return
        if word not in ("-h", *options):
            message = unknown("option", word.partition("=")[0], options)
            raise UsageError(f"{message} The options of a command stand after it.")


def _unexpected(word: str, arguments: argparse.Namespace, parser: Parser) -> str:
    if word.startswith("-"):
        return unknown("option", word.partition("=")[0], parser.option_names())
    return f"unexpected argument '{word}'" + ("; a change is KEY=VALUE" if "overrides" in arguments else "")
