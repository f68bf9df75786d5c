"""`basereward look`: an HTML page of the rows of a source."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from basereward.cli.command import LOADING_LIBRARIES, SUCCESS, Command, CommandResult
from basereward.cli.options import MODEL_FORMS, add_source_arguments, check_at_least_one, check_choice
from basereward.cli.tables import format_lost
from basereward.data.reading_text import format_reading
from basereward.data.schema.group import SPLITS
from basereward.io.progress import phase


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the source, the rows to show, and the model whose scores are shown.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["digits"]).rows
    200
    """
    add_source_arguments(parser)
    parser.add_argument("--model", metavar="MODEL", help=f"show the scores of a model: {MODEL_FORMS} (default: none)")
    parser.add_argument(
        "--rows", metavar="N", type=int, default=200, help="most rows to show, evenly spread (default: 200)"
    )
    parser.add_argument("--split", metavar="PART", help=f"show one part only: {', '.join(SPLITS)} (default: all)")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="file to write the page to (default: the name of SOURCE with .look.html, in the working folder)",
    )


def check_arguments(arguments: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: an unknown part, or fewer than one row.

    >>> check_arguments(argparse.Namespace(split=None, rows=0))
    Traceback (most recent call last):
    basereward.cli.command.UsageError: --rows 0: at least 1 is needed
    """
    check_choice("part", arguments.split, SPLITS)
    check_at_least_one("--rows", arguments.rows)


def run(arguments: argparse.Namespace) -> CommandResult:
    """Writes the page."""
    with phase(LOADING_LIBRARIES):
        from basereward.evaluation.reports.viewer import look

    result = look(
        arguments.source,
        model=arguments.model,
        rows=arguments.rows,
        split=arguments.split,
        out=arguments.out,
        overrides=arguments.overrides,
    )
    return result, SUCCESS


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """How the rows are read, how many are shown, how many were rejected, and where the page is.

    >>> reading = {"formats": [], "columns": {}, "not_read": [], "notes": [], "first": None}
    >>> facts = {"lost": {}, "rows": 50, "out": "digits.look.html", "read": 50, "total": 1617, "reading": reading}
    >>> list(format_text(facts))
    ['50 rows are shown in digits.look.html; 50 of 1617 were read']
    """
    yield from format_reading("the source", result["reading"])
    yield from format_lost(result["lost"])
    yield "{rows} rows are shown in {out}; {read} of {total} were read".format(**result)
    if result.get("folder"):
        yield f"further rows and pictures are in {result['folder']}/, which belongs beside the page"


COMMAND = Command(
    summary="write an HTML page of the rows of a source: images, responses, scores",
    activity="look: reading {source}",
    examples=("basereward look digits --rows 50", "basereward look pairs.jsonl --model runs/my_run/model"),
    add_arguments=add_arguments,
    check_arguments=check_arguments,
    run=run,
    format_text=format_text,
)
