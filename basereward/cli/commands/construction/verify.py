"""`basereward verify`: people check the labels of a selection in a local web page, and it becomes a benchmark."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from basereward.cli.command import SUCCESS, Command, CommandResult, UsageError
from basereward.cli.tables import format_counts, format_percent, format_table
from basereward.io.progress import phase

MAX_PORT = 65_535
MIN_RATERS, MAX_RATERS = 2, 9
PLAN = ("overlap", "raters", "tags", "with_control", "seed")
"""The options of the page, which the first pair that is given to a person fixes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the selection, the options of the page, and those for other actions than serving it.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["selection"]).port
    8010
    """
    parser.add_argument("folder", metavar="FOLDER", help="selection that `basereward select` has written")
    parser.add_argument(
        "--port", metavar="PORT", type=int, default=8010, help="port of 127.0.0.1; 0 takes a free one (default: 8010)"
    )
    _add_plan_arguments(parser)
    parser.add_argument(
        "--summary", action="store_true", help="print the counts and the agreement of the annotators, and serve no page"
    )
    parser.add_argument(
        "--publish", metavar="OUT", help="write the verified pairs as a benchmark to this folder, and serve no page"
    )
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="publish without the pairs that are not verified yet (default: they are an error)",
    )


def _add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verification, which the first pair that is given to a person fixes."""
    parser.add_argument(
        "--overlap",
        metavar="SHARE",
        type=float,
        help="share of the pairs that several annotators see, 0 to 1; fixed by the first pair shown (default: 0.2)",
    )
    parser.add_argument(
        "--raters",
        metavar="N",
        type=int,
        help="annotators of each of these pairs; fixed by the first pair shown (default: 2)",
    )
    parser.add_argument(
        "--tags",
        metavar="NAMES",
        help="kinds of errors, separated by commas; fixed by the first pair shown (default: existence,recognition,"
        "attribute,counting,other)",
    )
    parser.add_argument(
        "--with-control",
        action="store_true",
        help="verify the control sample too, mixed with the selected pairs; fixed by the first pair shown (default: it "
        "is not verified)",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=int,
        help="random seed of the order of the pairs; fixed by the first pair shown (default: 0)",
    )


def check_arguments(arguments: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: a number is out of its range, or options exclude each other.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> check_arguments(parser.parse_args(["selection", "--overlap", "20"]))
    Traceback (most recent call last):
    basereward.cli.command.UsageError: --overlap 20: a share from 0 to 1 is needed
    """
    if not 0 <= arguments.port <= MAX_PORT:
        raise UsageError(f"--port {arguments.port}: 0 to {MAX_PORT} are allowed")
    if arguments.overlap is not None and not 0 <= arguments.overlap <= 1:
        raise UsageError(f"--overlap {arguments.overlap:g}: a share from 0 to 1 is needed")
    if arguments.raters is not None and not MIN_RATERS <= arguments.raters <= MAX_RATERS:
        raise UsageError(f"--raters {arguments.raters}: {MIN_RATERS} to {MAX_RATERS} are allowed")
    _check_action(arguments)


def _check_action(arguments: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: an option does not belong to what is asked for: to serve the page, to summarize, or to publish.
    """
    if arguments.summary and arguments.publish is not None:
        raise UsageError("--summary and --publish are two commands; give one of them")
    if arguments.allow_partial and arguments.publish is None:
        raise UsageError("--allow-partial is an option of --publish; add it, or leave this one out")
    given = [f"--{name.replace('_', '-')}" for name in PLAN if getattr(arguments, name) not in (None, False)]
    serves = not arguments.summary and arguments.publish is None
    if given and not serves:
        raise UsageError(f"only the page takes {', '.join(given)}; leave out with --summary and --publish")


def run(arguments: argparse.Namespace) -> CommandResult:
    """Serves the page until it is interrupted, or publishes, or summarizes."""
    with phase("loading libraries"):
        from basereward.evaluation.construction.verify import PlanChanges, summarize, verify

    if arguments.publish is not None:
        from basereward.evaluation.construction.publish import publish

        published = publish(arguments.folder, out=arguments.publish, allow_partial=arguments.allow_partial)
        return {"published": published}, SUCCESS
    if arguments.summary:
        return summarize(arguments.folder), SUCCESS
    tags = None if arguments.tags is None else tuple(tag.strip() for tag in arguments.tags.split(","))
    changes = PlanChanges(
        overlap=arguments.overlap,
        raters=arguments.raters,
        tags=tags,
        control=arguments.with_control or None,
        seed=arguments.seed,
    )
    return verify(arguments.folder, port=arguments.port, changes=changes), SUCCESS


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """What is verified, how well the annotators agree, and what was published."""
    if "published" in result:
        yield from _format_published(result["published"])
        return
    yield (
        "{verified} of {pairs} pairs are verified, {kept} of them are good; {disputed} disputed, {pending} pending"
    ).format(**result)
    yield f"dropped: {format_counts(result['dropped'])}; adjudicated: {result['adjudicated']}"
    yield f"tags of good pairs: {format_counts(result['tags'])}"
    if result["annotators"]:
        yield ""
        rows = [(name, str(row["pairs"]), f"{row['seconds']:.1f}") for name, row in result["annotators"].items()]
        yield from format_table(("annotator", "pairs", "median seconds"), rows)
    if result["agreement"]["label"]["items"]:
        yield ""
        head = ("agreement on", "pairs", "exact, %", "95 %", "Cohen's kappa", "95 %", "Fleiss' kappa", "95 %")
        yield from format_table(head, [_agreement_row(*entry) for entry in result["agreement"].items()])
    yield ""
    yield "next: basereward verify {folder} --publish OUT".format(**result)


def _agreement_row(aspect: str, facts: Mapping[str, Any]) -> tuple[str, ...]:
    exact = facts["exact"]
    row = [aspect, str(facts["items"]), format_percent(exact["value"])]
    row.append(f"{format_percent(exact['low'])}-{format_percent(exact['high'])}")
    for name in ("cohen", "fleiss"):
        row.append(_two_decimals(facts[name]["value"]))
        low, high = facts[name]["low"], facts[name]["high"]
        row.append("-" if low is None else f"{_two_decimals(low)} to {_two_decimals(high)}")
    return tuple(row)


def _two_decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _format_published(published: Mapping[str, Any]) -> Iterator[str]:
    yield "{pairs} pairs, and {control} of the control sample; {left_out} pairs are not verified".format(**published)
    for hardness in published["hardness"]:
        names = ("pairs", "control", "difference", "low", "high")
        shares = [format_percent(hardness[name]) for name in names]
        yield "{name}: {0} % right here, {1} % on the control sample; difference {2} (95 %: {3} to {4})".format(
            *shares, name=hardness["name"]
        )
    yield "written to {out}".format(**published)
    yield "next: basereward eval MODEL --benchmark {benchmark}".format(**published)


COMMAND = Command(
    summary="have people check a selection in a local web page, and publish it as a benchmark",
    activity="verify: {folder}",
    examples=(
        "basereward verify selection --overlap 0.3 --raters 2",
        "basereward verify selection --summary",
        "basereward verify selection --publish my_benchmark",
    ),
    add_arguments=add_arguments,
    check_arguments=check_arguments,
    continues=True,
    takes_trust=False,
    run=run,
    format_text=format_text,
)
