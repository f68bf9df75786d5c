"""The command `basereward`. Nothing heavy is imported before it is needed, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeAlias

from basereward.errors import BaseRewardError, unknown

Result: TypeAlias = tuple[dict[str, Any], int]
DONE, FAILED, MISTAKE, INTERRUPTED, CLOSED_PIPE = 0, 1, 2, 130, 141
LISTED = ("experiments", "profiles", "sources", "benchmarks", "heads", "losses", "runs")


class UsageError(BaseRewardError):
    """The command line itself is wrong."""


class Parser(argparse.ArgumentParser):
    """Raises what argparse would print, so that every mistake leaves by the same door."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage().strip()}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 some cells failed, 2 a user's mistake, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    as_json = "--json" in argv
    sys.path.append(os.getcwd())  # where a class that a recipe names by its dotted path is likely to be
    try:
        arguments = parse(argv)
        with stdout_to_stderr():
            result, status = COMMANDS[arguments.command][0](arguments)
        text = json.dumps(_strict(result)) if as_json else "\n".join(COMMANDS[arguments.command][1](result))
        print(text, flush=True)  # flushed here, where a closed pipe is still caught
    except BaseRewardError as error:
        print(f"basereward: {error}", file=sys.stderr)
        if as_json:
            print(json.dumps({"error": {"type": type(error).__name__, "message": str(error)}}), flush=True)
        return MISTAKE
    except KeyboardInterrupt:
        print("basereward: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, `head` say, has what it wanted. Python would complain once more when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    return status


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line as a namespace; `KEY=VALUE` may stand before, between and after the options.

    Raises:
        UsageError: an unknown command, option or kind, or a missing argument.
    """
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        raise UsageError(unknown("command", argv[0], COMMANDS))
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    for word in rest:
        if word.startswith("-") or "=" not in word or "overrides" not in arguments:
            raise UsageError(_unexpected(word, arguments))
        arguments.overrides.append(word)
    if arguments.command == "ls" and arguments.kind not in LISTED:
        raise UsageError(unknown("kind", arguments.kind, LISTED))
    return arguments


def build_parser() -> Parser:
    """The commands and their options."""
    parser = Parser(prog="basereward", description="Train, check and use multimodal reward models.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (*_, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        command.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
        if name in ("check", "train", "sweep"):
            command.add_argument("experiment", metavar="EXPERIMENT", help="a name in experiments/, or a YAML file")
            command.add_argument(
                "--profile", default="tiny", help="a name in experiments/profiles/, or a YAML file (tiny)"
            )
            command.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="a change, as in optimizer.lr=1e-4")
        if name == "train":
            command.add_argument("--resume", metavar="RUN", help="go on with a run that was stopped")
        if name == "score":
            command.add_argument("model", metavar="MODEL", help="a run id, runs:/..., or a folder that was saved")
            command.add_argument("file", metavar="FILE", help="JSON Lines of prompts and responses")
            command.add_argument("--out", metavar="FILE", help="where the scores go")
        if name == "ls":
            command.add_argument("kind", metavar="KIND", help=", ".join(LISTED))
    return parser


def check(arguments: argparse.Namespace) -> Result:
    """Every cell and every fault."""
    from basereward.recipe import find_faults

    cells, faults = find_faults(arguments.experiment, profile=arguments.profile, overrides=arguments.overrides)
    return {
        "cells": [{"name": cell.name, "overrides": cell.overrides} for cell in cells],
        "faults": [{"cell": fault.cell, "key": fault.key, "message": fault.message} for fault in faults],
    }, MISTAKE if faults else DONE


def train(arguments: argparse.Namespace) -> Result:
    """One run."""
    from basereward.recipe import load_recipe

    recipe = load_recipe(arguments.experiment, profile=arguments.profile, overrides=arguments.overrides)
    from basereward.train import api  # after the recipe is found right: this takes seconds

    return api.train(recipe, resume=arguments.resume), DONE


def sweep(arguments: argparse.Namespace) -> Result:
    """Every cell that is not finished yet."""
    from basereward.recipe import load_cells

    cells = load_cells(arguments.experiment, profile=arguments.profile, overrides=arguments.overrides)
    from basereward.train import api

    result = api.sweep(cells, name=cells[0].recipe.name)
    return result, FAILED if any(cell["status"] == "failed" for cell in result["cells"]) else DONE


def score(arguments: argparse.Namespace) -> Result:
    """Scores for a file."""
    from basereward.train import api

    return api.score(arguments.model, arguments.file, out=arguments.out), DONE


def ls(arguments: argparse.Namespace) -> Result:
    """What there is of one kind."""
    if arguments.kind == "runs":
        from basereward.train.runs import list_runs  # not by way of `api`, which takes seconds

        entries = [(run.run_id, f"{run.name}, {run.state}") for run in list_runs()]
    else:
        from basereward.recipe import names

        entries = [(entry.name, entry.summary) for entry in names(arguments.kind)]
    return {arguments.kind: [{"name": name, "summary": summary} for name, summary in entries]}, DONE


def check_text(result: dict[str, Any]) -> Iterator[str]:
    """The cells, and below them the faults."""
    from basereward.recipe import Fault
    from basereward.recipe.table import check_table

    cells = [(cell["name"], cell["overrides"]) for cell in result["cells"]]
    return check_table(cells, [Fault(**fault) for fault in result["faults"]])


def train_text(result: dict[str, Any]) -> Iterator[str]:
    """The measures on the held-out rows, what was left out, and where the model is."""
    from basereward.recipe.table import table

    yield from table(("metric", "value"), [(name, number(value)) for name, value in result["metrics"].items()])
    for source, reasons in result["skipped"].items():
        for reason, count in reasons.items():
            yield f"skipped in {source}: {count} ({reason})"
    yield f"run {result['run_id']} took {result['seconds']:.0f} s; its model: {result['model']}"


def sweep_text(result: dict[str, Any]) -> Iterator[str]:
    """A row a cell, a column a measure of accuracy."""
    from basereward.recipe.table import table

    cells = result["cells"]
    measures = dict.fromkeys(name for cell in cells for name in cell["metrics"] if name.endswith("/pair_accuracy"))
    rows = [
        (cell["name"], cell["status"], *(number(cell["metrics"].get(name)) for name in measures), cell["run_id"] or "-")
        for cell in cells
    ]
    yield from (*table(("cell", "status", *measures, "run"), rows), "")
    yield from (f"{cell['name']} failed: {cell.get('error')}" for cell in cells if cell["status"] == "failed")
    yield ", ".join(f"{count} {status}" for status, count in Counter(row[1] for row in rows).items())


def score_text(result: dict[str, Any]) -> Iterator[str]:
    """How many, how long, and where they are."""
    yield "{responses} responses of {rows} rows scored in {seconds:.1f} s: {out}".format(**result)


def ls_text(result: dict[str, Any]) -> Iterator[str]:
    """Names and summaries."""
    from basereward.recipe.table import table

    ((kind, entries),) = result.items()
    rows = [tuple(entry.values()) for entry in entries]
    return table((), rows) if rows else iter([f"there are no {kind}"])


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], Result], Callable[[dict[str, Any]], Iterator[str]], str]] = {
    "check": (check, check_text, "find every fault of every cell; no model is loaded"),
    "train": (train, train_text, "train and test one reward model"),
    "sweep": (sweep, sweep_text, "train every cell of an experiment; finished ones are skipped"),
    "score": (score, score_text, "score every response of every row of a file"),
    "ls": (ls, ls_text, "list experiments, profiles, sources, benchmarks, heads, losses or runs"),
}


def number(value: float | None) -> str:
    """A measure to four places; counts whole.

    >>> number(0.98765), number(300.0), number(float("nan"))
    ('0.9877', '300', '-')
    """
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if value == int(value) and abs(value) > 1 else f"{value:.4f}"


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


def _unexpected(word: str, arguments: argparse.Namespace) -> str:
    if not word.startswith("-"):
        return f"unexpected argument '{word}'" + ("; a change is KEY=VALUE" if "overrides" in arguments else "")
    names = ["json", "help", *(name for name in ("profile", "resume", "out") if name in arguments)]
    return unknown("option", word.partition("=")[0], [f"--{name}" for name in names])
