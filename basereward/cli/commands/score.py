"""`basereward score`: a score for every response of every row of a file."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Any

from basereward.cli.command import LOADING_LIBRARIES, SUCCESS, Command, CommandResult, UsageError
from basereward.cli.options import (
    MODEL_FORMS,
    add_cluster_arguments,
    add_scoring_arguments,
    check_scoring_arguments,
    parse_cluster,
    parse_devices,
)
from basereward.io.progress import phase


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, the file of rows, and how they are scored.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["runs/my_run/model", "rows.jsonl"]).file
    'rows.jsonl'
    """
    parser.add_argument("model", metavar="MODEL", help=MODEL_FORMS)
    parser.add_argument("file", metavar="FILE", help="rows with responses: a file, a folder, a pattern or a hub id")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="JSON Lines file to write the scores to (default: the name of FILE with .scores.jsonl, in the working "
        "folder)",
    )
    add_scoring_arguments(parser)
    add_cluster_arguments(parser)


def check_arguments(arguments: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: an unknown dtype or device, a token limit below 1, a file in the place of the model, or devices
            together with a cluster.
        ClusterError: as `parse_cluster`.

    >>> check_arguments(argparse.Namespace(dtype="float16", tokens=None, model="m", file="rows.jsonl", devices=None))
    Traceback (most recent call last):
    basereward.cli.command.UsageError: unknown dtype 'float16'; did you mean 'bfloat16'? Allowed: bfloat16, float32.
    """
    check_scoring_arguments(arguments)
    if parse_cluster(arguments) is not None and arguments.devices is not None:
        raise UsageError("--devices are those of this machine, and --on ray has --workers; leave one of them out")
    if os.path.isfile(arguments.model):
        order = f"basereward score {arguments.file} {arguments.model}" if os.path.isdir(arguments.file) else ""
        meant = f". The model comes first: {order}" if order else ""
        raise UsageError(f"MODEL is '{arguments.model}', a file; needed is {MODEL_FORMS}{meant}")


def run(arguments: argparse.Namespace) -> CommandResult:
    """Scores the file."""
    with phase(LOADING_LIBRARIES):
        from basereward.inference.score_file import score

    result = score(
        arguments.model,
        arguments.file,
        out=arguments.out,
        tokens=arguments.tokens,
        dtype=arguments.dtype,
        devices=parse_devices(arguments.devices),
        cluster=parse_cluster(arguments),
    )
    return result, SUCCESS


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """How many responses were scored, where the scores are, and how fast it was.

    >>> speed = {"responses_per_s": 20.0, "forwards": 2, "forward_ms": 100.0, "forward_ms_95": 120.0}
    >>> list(format_text({"responses": 4, "rows": 2, "seconds": 0.2, "out": "scores.jsonl", **speed}))[0]
    '4 responses of 2 rows scored in 0.2 s: scores.jsonl'
    """
    yield "{responses} responses of {rows} rows scored in {seconds:.1f} s: {out}".format(**result)
    speed = "{responses_per_s:.1f} responses a second; {forwards} forward passes of {forward_ms:.0f} ms"
    yield (speed + " (median; 95 % took at most {forward_ms_95:.0f} ms)").format(**result)


COMMAND = Command(
    summary="score every response of every row of a file",
    activity="score: {file} with {model}",
    examples=(
        "basereward score runs/my_run/model rows.jsonl --out scores.jsonl --dtype bfloat16",
        "basereward score runs/my_run/model rows.jsonl --on ray --address head:6379 --shards 256",
    ),
    add_arguments=add_arguments,
    check_arguments=check_arguments,
    run=run,
    format_text=format_text,
)
