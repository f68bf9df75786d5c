"""`basereward convert`: rows of any known format as JSON Lines in the general form."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from basereward.cli.command import LOADING_LIBRARIES, SUCCESS, Command, CommandResult
from basereward.cli.options import add_source_arguments
from basereward.cli.tables import format_lost
from basereward.data.reading_text import format_reading
from basereward.io.progress import phase


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the rows and the file to write.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["pairs.json", "--out", "rows.jsonl"]).out
    'rows.jsonl'
    """
    add_source_arguments(parser)
    parser.add_argument(
        "--out",
        metavar="FILE",
        required=True,
        help="JSON Lines file to write; images that are no files yet are written into a folder beside it",
    )


def run(arguments: argparse.Namespace) -> CommandResult:
    """Converts the rows."""
    with phase(LOADING_LIBRARIES):
        from basereward.data.conversion import convert

    return convert(arguments.source, arguments.out, overrides=arguments.overrides), SUCCESS


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """How the rows are read, what was written, and what was left out.

    >>> reading = {"formats": [], "columns": {}, "not_read": ["model"], "notes": [], "first": None}
    >>> facts = {"rows": 2, "out": "rows.jsonl", "images": None, "lost": {}, "listed_in": None, "reading": reading}
    >>> list(format_text(facts))
    ['the source does not read model', 'columns that are not written: model', '2 rows written to rows.jsonl']
    """
    yield from format_reading("the source", result["reading"])
    if result["reading"]["not_read"]:
        yield "columns that are not written: " + ", ".join(result["reading"]["not_read"])
    yield from format_lost(result["lost"])
    if result["listed_in"]:
        yield f"the lost rows are listed in {result['listed_in']}"
    images = f", and images to {result['images']}" if result["images"] else ""
    yield f"{result['rows']} rows written to {result['out']}{images}"


COMMAND = Command(
    summary="write rows of any known format as JSON Lines in the general form",
    activity="convert: reading {source}",
    examples=(
        "basereward convert pairs.parquet --out rows.jsonl",
        "basereward convert pairs.csv --out rows.jsonl columns.prompt=question",
    ),
    add_arguments=add_arguments,
    run=run,
    format_text=format_text,
)
