"""The parser of the command line, and what is said about a word that it does not know."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from basereward.cli.command import Command, UsageError
from basereward.cli.commands import COMMANDS
from basereward.cli.overrides import check_overrides
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
        # argparse names optional positional arguments too, because there could be none of them.
        message = message.replace(", KEY=VALUE", "")
        raise UsageError(f"{message}{_hint(message)}\n{self.format_usage().strip()}")

    def option_names(self) -> list[str]:
        """The long options, such as `--json`."""
        names = []
        for action in self._actions:
            names += [option for option in action.option_strings if option.startswith("--")]
        return names


START = """to begin:
  basereward ls experiments        what can be trained
  basereward check basereward      whether it can be trained here
  basereward train basereward      a small model on two CPU cores, in two minutes
  basereward train --help          the options of one command, with examples"""
LISTS = {
    "EXPERIMENT": "experiments",
    "--profile": "profiles",
    "SOURCE": "sources",
    "MODEL": "runs",
    "RUN": "runs",
    "--resume": "runs",
    "--benchmark": "benchmarks",
}
"""What `basereward ls` lists, by the argument or option whose value it is."""


def _hint(message: str) -> str:
    """Where the allowed values of the argument are listed that a message of argparse names.

    >>> _hint("the following arguments are required: EXPERIMENT")
    '; `basereward ls experiments` lists them'
    """
    words = message.replace(",", " ").replace(":", " ").split()
    kinds = dict.fromkeys(LISTS[word] for word in words if word in LISTS)
    return "".join(f"; `basereward ls {kind}` lists {kind if len(kinds) > 1 else 'them'}" for kind in kinds)


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
    _check_not_empty(argv)
    parser, command_parsers = build_parser()
    _check_command(argv, parser.option_names())
    # Not `parse_args`, which would refuse the overrides that stand after an option.
    arguments, rest = parser.parse_known_args(argv)
    # argparse gives `nargs="*"` only the words that stand together; the overrides after an option are left over.
    for word in rest:
        # Only an override may stand here; anything else is an option or an argument that the command does not have.
        if word.startswith("-") or "overrides" not in arguments:
            raise UsageError(_unexpected(word, arguments, command_parsers[arguments.command]))
        arguments.overrides.append(word)
    check_overrides(getattr(arguments, "overrides", ()))
    COMMANDS[arguments.command].check_arguments(arguments)
    return arguments


def _check_not_empty(argv: Sequence[str]) -> None:
    """
    Raises:
        UsageError: an argument is empty. As a path it would be the working folder, which nobody means.

    >>> _check_not_empty(["score", "", "rows.jsonl"])
    Traceback (most recent call last):
        ...
    basereward.cli.command.UsageError: the argument after 'score' is empty; an unset variable of the shell gives one.
    Give a value, or leave it out
    """
    for before, word in zip(["basereward", *argv], argv, strict=False):
        option, _, value = word.partition("=")
        if not word.strip():
            raise UsageError(_empty(f"the argument after '{before}'"))
        if option.startswith("--") and "=" in word and not value.strip():
            raise UsageError(_empty(f"the value of '{option}'"))


def _empty(what: str) -> str:
    return f"{what} is empty; an unset variable of the shell gives one. Give a value, or leave it out"


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the whole command line, and that of every command by name.

    >>> parser, command_parsers = build_parser()
    >>> list(command_parsers)[:3]
    ['new', 'check', 'data']
    """
    parser = Parser(
        prog="basereward",
        description="Train, check and use multimodal reward models.",
        epilog=START,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
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
        UsageError: an unknown command, none at all, or an unknown option before it.
    """
    for number, word in enumerate(argv):
        if not word.startswith("-"):
            if word not in COMMANDS:
                raise UsageError(unknown("command", word, COMMANDS) + _order_hint(argv[number:]))
            return
        if word not in ("-h", *options):
            message = unknown("option", word.partition("=")[0], options)
            raise UsageError(f"{message} The options of a command stand after it.")
        if word in ("-h", "--help", "--version"):
            return
    names = ", ".join(COMMANDS)
    raise UsageError(
        f"the following arguments are required: COMMAND, one of {names}. `basereward COMMAND --help` explains one."
    )


def _order_hint(words: Sequence[str]) -> str:
    """The right order, where a command stands after the first word."""
    for word in words[1:]:
        if word in COMMANDS:
            rest = list(words)
            rest.remove(word)
            return f" The command comes first: basereward {' '.join([word, *rest])}"
    return ""


def _unexpected(word: str, arguments: argparse.Namespace, parser: Parser) -> str:
    if not word.startswith("-"):
        return f"unexpected argument '{word}'"
    option = word.partition("=")[0]
    message = unknown("option", option, parser.option_names())
    if "overrides" not in arguments:
        return message
    from basereward.recipe.yaml.keys import keys_named

    # People who come from another trainer give values of a recipe as options.
    if keys := keys_named(option.lstrip("-").replace("-", "_")):
        message += f" A value of the recipe has no dashes: {' or '.join(f'{key}=VALUE' for key in keys)}."
    return message
