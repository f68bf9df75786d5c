"""`basereward train`: train, test and save one reward model, or run the stages of a pipeline."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from basereward.cli.command import LOADING_LIBRARIES, SUCCESS, Command, CommandResult, UsageError
from basereward.cli.options import add_recipe_arguments
from basereward.cli.pipeline_text import format_pipeline
from basereward.cli.tables import format_number, format_table
from basereward.io.progress import phase

if TYPE_CHECKING:
    from basereward.recipe import Experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the recipe and the run to continue.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["basereward", "--resume", "r1"]).resume
    'r1'
    """
    add_recipe_arguments(parser)
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="id of an interrupted run of the same recipe; it continues from its last checkpoint (default: a new run)",
    )


def run(arguments: argparse.Namespace) -> CommandResult:
    """Trains one model, or runs the stages of a pipeline."""
    from basereward.recipe import load_experiment
    from basereward.recipe.load import only_recipe
    from basereward.rl.train import trainer_of
    from basereward.runs.run_folder import find
    from basereward.training.preflight import check_quickly, only_cell

    given = arguments.experiment
    experiment = load_experiment(given, profile=arguments.profile, overrides=arguments.overrides)
    if experiment.stages:
        return _run_pipeline(experiment, resume=arguments.resume), SUCCESS
    recipe = only_recipe(experiment, given)
    if arguments.resume is not None:
        find(arguments.resume)
    found = check_quickly([only_cell(recipe)])
    # Only after the recipe and its files are found right: this import takes seconds.
    with phase(LOADING_LIBRARIES):
        train = trainer_of(recipe)
    return train(recipe, resume=arguments.resume, quick=found), SUCCESS


def _run_pipeline(experiment: Experiment, *, resume: str | None) -> dict[str, Any]:
    if resume is not None:
        raise UsageError(
            f"--resume continues one run, and '{experiment.name}' has stages; continue it by the same command without "
            f"--resume, or by `basereward resume {resume}`"
        )
    with phase(LOADING_LIBRARIES):
        from basereward.pipelines.run import run_pipeline

    return run_pipeline(experiment)


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """The metrics on the test rows, the rejected rows, and where the model is; of a pipeline, its stages.

    >>> result = {"metrics": {"test/pair_accuracy": 0.9}, "skipped": {}, "run_id": "r1", "seconds": 61.2}
    >>> list(format_text({**result, "model": "runs:/r1/model"}))[-1]
    'run r1 took 61 s; its model: runs:/r1/model'
    """
    if "pipeline_id" in result:
        yield from format_pipeline(result)
        return
    if result["metrics"]:
        rows = [(name, format_number(value)) for name, value in result["metrics"].items()]
        yield from format_table(("metric", "value"), rows)
    else:
        yield "no rows were held out for the test, so nothing was measured"
    # Every row is used or counted under a reason, so this list is never cut.
    for source, reasons in result["skipped"].items():
        for reason, count in reasons.items():
            yield f"skipped in {source}: {count} ({reason})"
    yield f"run {result['run_id']} took {result['seconds']:.0f} s; its model: {result['model']}"


COMMAND = Command(
    summary="train and test one reward model, or run the stages of a pipeline",
    activity="train: reading the recipe of {experiment} on profile {profile}",
    examples=(
        "basereward train basereward",
        "basereward train basereward trainer.steps=300 'model.head={_target_: mlp, layers: 3}'",
        "basereward train basereward data.sources.mine.include=sources/jsonl data.sources.mine.path=pairs.jsonl",
        "basereward train r1_reward",
        "basereward train basereward --profile qwen2_5_vl_7b data.sources.pairs.path=pairs.jsonl optimizer.lr=1e-5",
    ),
    add_arguments=add_arguments,
    run=run,
    format_text=format_text,
)
