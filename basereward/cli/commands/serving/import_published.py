"""`basereward import`: a published scalar reward model as a model of ours."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from basereward.cli.command import LOADING_LIBRARIES, SUCCESS, Command, CommandResult
from basereward.io.progress import phase


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the checkpoint and the folder.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["checkpoints/skywork", "--out", "skywork"]).out
    'skywork'
    """
    parser.add_argument("checkpoint", metavar="FOLDER", help="folder or hub id of the published checkpoint")
    parser.add_argument("--revision", metavar="REVISION", help="branch, tag or commit of the hub repository")
    parser.add_argument("--out", metavar="MODEL", required=True, help="folder of the model; it replaces an older one")


def run(arguments: argparse.Namespace) -> CommandResult:
    """Imports the checkpoint."""
    with phase(LOADING_LIBRARIES):
        from basereward.inference.published.import_model import import_model

    with phase("copying the model"):
        return import_model(arguments.checkpoint, Path(arguments.out), revision=arguments.revision), SUCCESS


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """What was recognised, and where it is.

    >>> head = {"_target_": "linear", "bias": False}
    >>> list(format_text({"out": "skywork", "layout": "linear", "head": head, "family": "llama"}))
    ['skywork: llama, head linear (layout: linear)', 'score it with `basereward score skywork ROWS`']
    """
    yield f"{result['out']}: {result['family']}, head {result['head']['_target_']} (layout: {result['layout']})"
    yield f"score it with `basereward score {result['out']} ROWS`"


COMMAND = Command(
    summary="open a published scalar reward model as a model of ours",
    activity="import: {checkpoint} to {out}",
    examples=(
        "basereward import checkpoints/Skywork-Reward-V2-Qwen3-8B --out skywork",
        "basereward import Skywork/Skywork-VL-Reward-7B --out skywork-vl",
    ),
    add_arguments=add_arguments,
    run=run,
    format_text=format_text,
)
