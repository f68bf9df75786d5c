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
        help="file to write the page to; with `all`, a folder (default: reports/PROFILE/EXPERIMENT/SWEEP/report.html, "
        "benchmarks.html for evaluations, reports/ for `all`)",
    )
    parser.add_argument(
        "--sweep",
        metavar="SWEEP",
        help="sweep of the experiment, by name (its overrides, or `default` for none) or id; KEY=VALUE chooses one "
        "too (default: the newest one with all cells finished)",
    )
    # KEY=VALUE is among the words, and the parser appends here what it finds after an option.
    parser.set_defaults(overrides=[])


def run(arguments: argparse.Namespace) -> CommandResult:
    """Writes the page."""
    with phase(LOADING_LIBRARIES):
        from basereward.evaluation.reports.report import report_of

    result = report_of(
        arguments.words,
        profile=arguments.profile,
        overrides=arguments.overrides,
        sweep=arguments.sweep,
        out=arguments.out,
    )
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
    yield "{experiment}, {sweep}: {finished} of {cells} finished; page: {out}; numbers: {csv}".format(**page)
    if page["kept"] is not None:
        yield (
            f"the page is left as it was, because it has {page['kept']} finished cells: move it away to replace it, or "
            "give another --out"
        )
    for other in page["others"]:
        yield "other sweep {name}: {finished} of {cells} cells finished, {date}: {command}".format(**other)


COMMAND = Command(
    summary="write an HTML page of an experiment, of all, or of evaluations",
    activity="report: looking for the runs of {words}",
    examples=("basereward report head_depth", "basereward report all --out reports"),
    add_arguments=add_arguments,
    run=run,
    format_text=format_text,
)
