"""`basereward select`: keep the pairs of sources that all judges get wrong."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from basereward.cli.command import LOADING_LIBRARIES, SUCCESS, Command, CommandResult, UsageError
from basereward.cli.options import (
    MODEL_FORMS,
    add_devices,
    add_judge_arguments,
    check_at_least_one,
    check_choice,
    parse_devices,
)
from basereward.cli.overrides import check_overrides
from basereward.cli.tables import format_counts, format_percent, format_table
from basereward.data.schema.group import SPLITS
from basereward.io.progress import phase

MAX_VOTES = 15
"""As `open_judge` allows."""
WRONG_BY = ("majority", "unanimous")
CHANGE = re.compile(r"[A-Za-z_][\w./-]*=")
JUDGE_FORMS = f"{MODEL_FORMS}; MODEL@URL, MODEL@local or MODEL@vllm for a generative judge; or longer, shorter, random"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the sources, the judges, and which pairs are kept.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["digits", "--judges", "longer", "RUN", "--out", "selection"]).votes
    3
    """
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="+",
        help="name in experiments/sources/ (`basereward ls sources`), or rows: a file, a folder, a pattern or a hub "
        "id; KEY=VALUE changes an argument of the source, SOURCE.KEY=VALUE that of one of several sources",
    )
    # argparse cannot tell sources from changes; `check_arguments` moves the changes here.
    parser.set_defaults(overrides=[])
    parser.add_argument("--judges", metavar="JUDGE", nargs="+", required=True, help=JUDGE_FORMS)
    parser.add_argument(
        "--votes",
        metavar="K",
        type=int,
        default=3,
        help=f"verdicts of a generative judge on each pair, 1 to {MAX_VOTES}; the order of the answers is drawn for "
        "each. A reward model votes once (default: 3)",
    )
    parser.add_argument("--out", metavar="FOLDER", required=True, help="folder to write the selection to")
    _add_rule_arguments(parser)
    _add_candidate_arguments(parser)
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="leave out pairs that a judge cannot judge (default: they are an error)",
    )
    add_devices(parser)
    add_judge_arguments(parser, temperature=None, endpoint=False)


def _add_rule_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that decide which candidates are kept, and what they are compared with."""
    parser.add_argument(
        "--wrong",
        metavar="RULE",
        default="majority",
        help="a judge is wrong if most of its votes are (majority), or if all are (unanimous); a vote that cannot be "
        "read is never wrong (default: majority)",
    )
    parser.add_argument(
        "--probe", metavar="JUDGE", help="further judge, which only shows how hard the pairs are (default: none)"
    )
    parser.add_argument(
        "--control",
        metavar="N",
        type=int,
        help="size of a random sample of the same sources (default: the number of kept pairs)",
    )


def _add_candidate_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that decide which pairs of the sources are judged."""
    parser.add_argument(
        "--split", metavar="PART", default="train", help=f"part of the sources: {', '.join(SPLITS)} (default: train)"
    )
    parser.add_argument(
        "--length-control",
        metavar="SHARE",
        type=float,
        help="judge only pairs whose lengths in characters differ by less than this share of the shorter one, such as "
        "0.1 (default: all pairs)",
    )
    parser.add_argument("--limit", metavar="N", type=int, help="most pairs to judge, drawn at random (default: all)")
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="random seed of the draws of pairs (default: 0)"
    )


def check_arguments(arguments: argparse.Namespace) -> None:
    """Checks the values, and moves changes `KEY=VALUE` out of the sources and the judges.

    Raises:
        UsageError: an unknown part, rule or device, a number out of its range, or no source.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> arguments = parser.parse_args(["digits", "size=9", "--out", "selection", "--judges", "longer"])
    >>> check_arguments(arguments)
    >>> arguments.sources, arguments.overrides
    (['digits'], ['size=9'])
    """
    _move_changes(arguments)
    check_overrides(arguments.overrides)
    check_choice("part", arguments.split, SPLITS)
    check_choice("rule of --wrong", arguments.wrong, WRONG_BY)
    parse_devices(arguments.devices)
    check_at_least_one("--limit", arguments.limit)
    check_at_least_one("--max-tokens", arguments.max_tokens)
    _check_votes(arguments)
    if arguments.control is not None and arguments.control < 0:
        raise UsageError(f"--control {arguments.control}: 0 or more are allowed")
    if arguments.length_control is not None and not arguments.length_control > 0:
        raise UsageError(f"--length-control {arguments.length_control:g}: a share above 0 is needed, such as 0.1")


def _move_changes(arguments: argparse.Namespace) -> None:
    """Moves changes `KEY=VALUE` from the sources and the judges, which argparse has read before the next option."""
    for name in ("sources", "judges"):
        words = getattr(arguments, name)
        changes = [word for word in words if CHANGE.match(word) and "@" not in word and not os.path.exists(word)]
        setattr(arguments, name, [word for word in words if word not in changes])
        arguments.overrides = [*arguments.overrides, *changes]
        if not getattr(arguments, name):
            raise UsageError(
                f"{' '.join(words)}: give at least one of the {name} too, and then changes KEY=VALUE of it"
            )


def _check_votes(arguments: argparse.Namespace) -> None:
    if not 1 <= arguments.votes <= MAX_VOTES:
        raise UsageError(f"--votes {arguments.votes}: 1 to {MAX_VOTES} are allowed")
    if arguments.votes > 1 and arguments.temperature is not None and not arguments.temperature > 0:
        raise UsageError(
            f"--votes {arguments.votes} at --temperature {arguments.temperature:g}: all would be the same vote; give a "
            "temperature above 0, or --votes 1"
        )


def run(arguments: argparse.Namespace) -> CommandResult:
    """Selects the pairs."""
    with phase(LOADING_LIBRARIES):
        from basereward.evaluation.construction.candidates import CandidateOptions
        from basereward.evaluation.construction.judges import JudgeOptions
        from basereward.evaluation.construction.select import SelectionRule, select

    candidates = CandidateOptions(
        split=arguments.split,
        length_control=arguments.length_control,
        limit=arguments.limit,
        seed=arguments.seed,
    )
    options = JudgeOptions(
        votes=arguments.votes,
        temperature=arguments.temperature,
        prompt=arguments.prompt,
        prompt_file=arguments.prompt_file,
        pattern=arguments.pattern,
        max_tokens=arguments.max_tokens,
        concurrency=arguments.concurrency,
        timeout_s=arguments.timeout,
        send=arguments.send,
        devices=parse_devices(arguments.devices),
    )
    result = select(
        arguments.sources,
        judges=arguments.judges,
        out=arguments.out,
        candidates=candidates,
        rule=SelectionRule(wrong_by=arguments.wrong, control=arguments.control, seed=arguments.seed),
        options=options,
        probe=arguments.probe,
        allow_partial=arguments.allow_partial,
        overrides=arguments.overrides,
    )
    return result, SUCCESS


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """How many pairs were judged and kept, the judges with their accuracies, and how hard the pairs are."""
    yield f"{result['kept']} of {result['candidates']} pairs are kept; {result['read']} preferences and rows were read"
    if result["left_out"]:
        yield f"not judged: {format_counts(result['left_out'])}"
    yield f"decisions: {format_counts(result['decisions'])}"
    yield ""
    yield from format_table(("source", "judged", "kept"), _source_rows(result["by_source"]))
    yield ""
    head = ("judge", "right", "wrong", "ties", "undecided", "votes not read", "accuracy, %", "95 %")
    yield from format_table(head, [_judge_row(judge) for judge in result["judges"]])
    for judge in result["judges"]:
        if measures := judge["accuracy_over_votes"]:
            shares = [f"{name} {format_percent(measure['value'])}" for name, measure in measures.items()]
            yield f"{judge['name']}, accuracy in %: {', '.join(shares)}"
    for hardness in result["hardness"]:
        yield ""
        yield _hardness(hardness)
    yield ""
    yield f"control sample: {result['control']} pairs; written to {result['out']}"
    if result["kept"]:
        yield f"next: basereward verify {result['out']}"
    else:
        yield "no pair is kept, so that there is nothing to verify: judge more pairs, or with fewer judges"


def _source_rows(by_source: Mapping[str, Mapping[str, int]]) -> list[tuple[str, str, str]]:
    return [(source, str(counts["candidates"]), str(counts["kept"])) for source, counts in by_source.items()]


def _judge_row(judge: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy = judge["accuracy"]
    counts = [str(judge[name]) for name in ("right", "wrong", "tie", "undecided", "unread_votes")]
    interval = f"{format_percent(accuracy['low'])}-{format_percent(accuracy['high'])}"
    return (judge["name"], *counts, format_percent(accuracy["value"]), interval)


def _hardness(hardness: Mapping[str, Any]) -> str:
    shares = [format_percent(hardness[name]) for name in ("kept", "control", "difference", "low", "high")]
    return (
        "{name}: {0} % right on the kept pairs, {1} % on the control sample; difference {2} (95 %: {3} to {4})".format(
            *shares, name=hardness["name"]
        )
    )


COMMAND = Command(
    summary="select the pairs of sources that all judges get wrong, to make a benchmark of",
    activity="select: {sources} by {judges}",
    examples=(
        "basereward select pairs.jsonl --judges runs/a/model runs/b/model longer --out selection",
        "basereward select pairs.jsonl --judges Qwen2-VL-7B@http://localhost:8000/v1 --votes 5 --out selection",
    ),
    add_arguments=add_arguments,
    check_arguments=check_arguments,
    continues=True,
    run=run,
    format_text=format_text,
)
