"""`basereward resume`: continue a stopped run, sweep or pipeline."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from basereward.cli.command import LOADING_LIBRARIES, SUCCESS, Command, CommandResult
from basereward.cli.commands import sweep, train
from basereward.io.progress import phase

if TYPE_CHECKING:
    from basereward.runs.run_folder import RunFolder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the run and its working folder.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["20260314-153012-9f2c41"]).run
    '20260314-153012-9f2c41'
    """
    parser.add_argument(
        "run",
        metavar="RUN",
        help="id of a run, sweep or pipeline that was stopped or failed, or the path of its folder",
    )
    parser.add_argument(
        "--folder",
        metavar="FOLDER",
        help="working folder, from which relative paths of the recipe start (default: that of the start)",
    )
    parser.add_argument(
        "--devices",
        metavar="N",
        type=int,
        help="number of devices on which a run continues; it may differ from that of the start (default: the same)",
    )


def run(arguments: argparse.Namespace) -> CommandResult:
    """Continues the run, the sweep or the pipeline."""
    from basereward.sweeps.resume import resume

    options = {"folder": arguments.folder, "devices": arguments.devices}
    result = resume(arguments.run, **options, continue_pipeline=_continue_pipeline)
    return result, sweep.exit_status(result) if result["kind"] == "sweep" else SUCCESS


def _continue_pipeline(run: RunFolder) -> dict[str, Any]:
    with phase(LOADING_LIBRARIES):
        from basereward.pipelines.run import resume_pipeline

    return resume_pipeline(run)


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """What `train` or `sweep` print.

    >>> result = {"metrics": {}, "skipped": {}, "run_id": "r1", "seconds": 61.2, "model": "runs:/r1/model"}
    >>> list(format_text({"kind": "run", **result}))[-1]
    'run r1 took 61 s; its model: runs:/r1/model'
    """
    return sweep.format_text(result) if result["kind"] == "sweep" else train.format_text(result)


COMMAND = Command(
    summary="continue a run, sweep or pipeline that was stopped",
    activity="resume: looking for {run}",
    examples=("basereward resume 20260314-153012-9f2c41",),
    add_arguments=add_arguments,
    run=run,
    format_text=format_text,
)
