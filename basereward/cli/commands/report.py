"""`basereward report`: an HTML page about an experiment, about all of them, or about evaluations."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from basereward.cli.command import LOADING_LIBRARIES, SUCCESS, Command, CommandResult
from basereward.io.progress import phase


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subject of the report and its place.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["head_depth"]).words
    ['head_depth']
    """
    parser.add_argument(
        "words",
        metavar="EXPERIMENT|EVALUATION",
        nargs="+",
        help="name of an experiment, `all`, or folders that `eval` wrote; KEY=VALUE overrides a key of the experiment",
    )
    parser.add_argument(
        "--profile", default="tiny", help="profile that the experiment ran on, as for `sweep` (default: tiny)"
    )
    parser.add_argument(
        "--out",
        metavar="PLACE",
        help="file to write the page to; with `all`, a folder (default: reports/PROFILE/EXPERIMENT.html, "
        "benchmarks.html for evaluations, reports/ for `all`)",
    )
    # KEY=VALUE is among the words, and the parser appends here what it finds after an option.
    parser.set_defaults(overrides=[])


def run(arguments: argparse.Namespace) -> CommandResult:
    """Writes the page."""
    with phase(LOADING_LIBRARIES):
        from basereward.evaluation.reports.report import report_of

    result = report_of(arguments.words, profile=arguments.profile, overrides=arguments.overrides, out=arguments.out)
    return result, SUCCESS


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """Where the pages and their tables of numbers are.

    >>> list(format_text({"evaluations": 2, "out": "benchmarks.html", "csv": "benchmarks/numbers.csv"}))
    ['evaluations: 2; page: benchmarks.html; numbers: benchmarks/numbers.csv']
    """
    # `all` gives several pages; any other result is that of one page.
    for page in result.get("pages", [result]):
        # A page about evaluations belongs to no experiment.
        if "experiment" in page:
            yield from _format_page(page)
    for name, reason in result.get("refused", {}).items():
        yield f"no page of {name}: {reason}"
    if "pages" in result:
        yield f"index: {result['out']}"
    if "evaluations" in result:
        yield "evaluations: {evaluations}; page: {out}; numbers: {csv}".format(**result)


def _format_page(page: Mapping[str, Any]) -> Iterator[str]:
    kept = " (unchanged)" if page.get("kept") else ""
    yield "{experiment}: {finished} of {cells} finished; page: {out}{0}; numbers: {csv}".format(kept, **page)
    if others := page.get("others"):
        yield f"{page['experiment']} has {'; '.join(others)}: give the same settings to report them"


COMMAND = Command(
    summary="write an HTML page of an experiment, of all, or of evaluations",
    activity="report: looking for the runs of {words}",
    examples=("basereward report head_depth", "basereward report all --out reports"),
    add_arguments=add_arguments,
    run=run,
    format_text=format_text,
)
