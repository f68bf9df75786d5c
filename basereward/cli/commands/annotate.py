"""`basereward annotate`: let a judge write reasoning for the pairs of a source."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from basereward.cli.command import LOADING_LIBRARIES, SUCCESS, Command, CommandResult, UsageError
from basereward.cli.options import (
    add_cluster_arguments,
    add_judge_arguments,
    add_source_arguments,
    check_choice,
    parse_cluster,
)
from basereward.cli.tables import format_lost
from basereward.data.schema.group import SPLITS
from basereward.errors import DataError
from basereward.io.progress import phase


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the source, the judge and the output.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["pairs.jsonl", "--model", "m", "--out", "annotated.jsonl"]).attempts
    3
    """
    add_source_arguments(parser)
    parser.add_argument(
        "--model", metavar="NAME", required=True, help="the judge: its name at the endpoint, or a hub id or folder"
    )
    add_judge_arguments(parser, temperature=1.0)
    parser.add_argument(
        "--out",
        metavar="FILE",
        required=True,
        help="JSON Lines file to write the annotated pairs to, for training",
    )
    parser.add_argument(
        "--split", metavar="PART", default="train", help=f"part of the source: {', '.join(SPLITS)} (default: train)"
    )
    parser.add_argument(
        "--attempts",
        metavar="N",
        type=int,
        default=3,
        help="most texts that the judge writes for one pair until its verdict agrees with the label (default: 3)",
    )
    parser.add_argument(
        "--retry-temperature",
        metavar="T",
        type=float,
        help="temperature of all texts of a pair after the first, such as 1 with --temperature 0 (default: "
        "--temperature)",
    )
    parser.add_argument("--limit", metavar="N", type=int, help="most pairs to annotate, drawn at random (default: all)")
    parser.add_argument(
        "--seed",
        metavar="N",
        type=int,
        default=0,
        help="random seed of the draw of pairs and of the order of their answers (default: 0)",
    )
    add_cluster_arguments(parser)


def check_arguments(arguments: argparse.Namespace) -> None:
    """Checks the values here, because the library that also checks the numbers takes seconds to import.

    Raises:
        UsageError: no endpoint, an unknown part, or options of a cluster without one.
        DataError: a count below 1, or several attempts without sampling.

    >>> check_arguments(argparse.Namespace(endpoint=None))
    Traceback (most recent call last):
    basereward.cli.command.UsageError: --endpoint is needed: the judge's address, or local, or vllm
    """
    if arguments.endpoint is None:
        raise UsageError("--endpoint is needed: the judge's address, or local, or vllm")
    check_choice("part", arguments.split, SPLITS)
    parse_cluster(arguments)
    if arguments.attempts < 1 or (arguments.limit is not None and arguments.limit < 1):
        raise DataError(f"--attempts {arguments.attempts} and --limit {arguments.limit}: at least 1 is needed for both")
    retry = arguments.temperature if arguments.retry_temperature is None else arguments.retry_temperature
    if arguments.attempts > 1 and not retry:
        raise DataError(
            f"--attempts {arguments.attempts} at temperature 0: every attempt would be the same text; raise "
            "--temperature or --retry-temperature, or give --attempts 1"
        )


def run(arguments: argparse.Namespace) -> CommandResult:
    """Annotates the pairs."""
    with phase(LOADING_LIBRARIES):
        from basereward.evaluation.annotation.annotate import annotate

    result = annotate(
        arguments.source,
        model=arguments.model,
        endpoint=arguments.endpoint,
        out=arguments.out,
        split=arguments.split,
        attempts=arguments.attempts,
        limit=arguments.limit,
        seed=arguments.seed,
        concurrency=arguments.concurrency,
        timeout_s=arguments.timeout,
        send=arguments.send,
        temperature=arguments.temperature,
        retry_temperature=arguments.retry_temperature,
        max_tokens=arguments.max_tokens,
        prompt=arguments.prompt,
        prompt_file=arguments.prompt_file,
        pattern=arguments.pattern,
        overrides=arguments.overrides,
        cluster=parse_cluster(arguments),
    )
    return result, SUCCESS


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """How many pairs agreed after how many attempts, and what it cost.

    >>> counts = {"agreed": 3, "pairs": 4, "split": "train", "disagreed": 1, "unread": 0, "bare": 0, "lost": {}}
    >>> cost = {"by_attempts": {"1": 3}, "fresh": 0, "seconds": 0.0, "answers": 4, "prompt_tokens": 900, "tokens": 300}
    >>> list(format_text({**counts, **cost, "out": "annotated.jsonl"}))[0]
    '3 of 4 pairs of the part train agreed, 1 did not; 0 texts had no verdict, 0 no reasoning'
    """
    yield (
        "{agreed} of {pairs} pairs of the part {split} agreed, {disagreed} did not; {unread} texts had no verdict, "
        "{bare} no reasoning"
    ).format(**result)
    yield from format_lost(result["lost"])
    yield "agreed by attempt: " + ", ".join(f"{number}: {count}" for number, count in result["by_attempts"].items())
    # A call that finds all answers in its journal takes no time, and a rate would mean nothing.
    rate = f"{result['fresh'] / result['seconds']:.2f} a second" if result["seconds"] > 1 else "at once"
    yield "{answers} texts, {prompt_tokens:,} tokens read and {tokens:,} written, ".format(**result) + rate
    yield "written to {out}".format(**result)


COMMAND = Command(
    summary="have a judge write reasoning for the pairs of a source",
    activity="annotate: {source} with {model}",
    examples=(
        "basereward annotate pairs.jsonl --model my-model --endpoint http://localhost:8000/v1 --out reasoned.jsonl",
    ),
    add_arguments=add_arguments,
    check_arguments=check_arguments,
    continues=True,
    run=run,
    format_text=format_text,
)
