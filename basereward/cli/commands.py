"""What each command calls. The work is done elsewhere."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, NamedTuple, TypeAlias

from basereward.cli.text import tables as text
from basereward.cli.text.ensemble import ensemble as ensemble_text
from basereward.io.secrets import redact
from basereward.training.cost.gpu_specs import GPUS

CommandResult: TypeAlias = tuple[dict[str, Any], int]
DONE, FAILED, MISTAKE = 0, 1, 2


class Command(NamedTuple):
    """`work` gives a result, for --json, and the exit status; `text` tells the result to a person."""

    work: Callable[[argparse.Namespace], CommandResult]
    text: Callable[[dict[str, Any]], Iterator[str]]
    summary: str


def check(arguments: argparse.Namespace) -> CommandResult:
    """Every cell and every fault; what each would cost when that is asked for and there is no fault."""
    from basereward.recipe import find_experiment

    experiment, faults = find_experiment(arguments.experiment, profile=arguments.profile, overrides=arguments.overrides)
    if not faults:
        from basereward.training.preflight import cell_faults

        faults = cell_faults(experiment.cells)
    told: list[dict[str, Any]] = [{"name": cell.name, "overrides": cell.overrides} for cell in experiment.cells]
    if arguments.cost and not faults:
        from basereward.training.cost.recipe_cost import costs

        found = costs(
            experiment.cells, gpus=[arguments.gpu] if arguments.gpu else GPUS, utilisation=arguments.utilisation
        )
        told = [cell | {"cost": cost} for cell, cost in zip(told, found, strict=True)]
    return {
        "cells": told,
        "ensembles": [{"name": name, **asdict(recipe)} for name, recipe in experiment.ensembles.items()],
        "faults": [{"cell": fault.cell, "key": fault.key, "message": redact(fault.message)} for fault in faults],
    }, MISTAKE if faults else DONE


def train(arguments: argparse.Namespace) -> CommandResult:
    """One run."""
    from basereward.recipe import load_recipe

    recipe = load_recipe(arguments.experiment, profile=arguments.profile, overrides=arguments.overrides)
    from basereward.cli import api  # after the recipe is found right: this takes seconds

    return api.train(recipe, resume=arguments.resume), DONE


def sweep(arguments: argparse.Namespace) -> CommandResult:
    """Every cell that is not finished yet, and then the ensembles of them."""
    from basereward.recipe import load_experiment

    experiment = load_experiment(arguments.experiment, profile=arguments.profile, overrides=arguments.overrides)
    from basereward.cli import api

    result = api.sweep(experiment)
    made = [*result["cells"], *result["ensembles"]]
    return result, FAILED if any(each["status"] == "failed" for each in made) else DONE


def data(arguments: argparse.Namespace) -> CommandResult:
    """What would be trained on."""
    from basereward.recipe import load_recipe

    recipe = load_recipe(arguments.experiment, profile=arguments.profile, overrides=arguments.overrides)
    from basereward.recipe import Cell
    from basereward.training.data_summary import preview
    from basereward.training.preflight import cell_faults

    faults = cell_faults([Cell(recipe.name, recipe.name, {}, recipe)])
    told = [{"cell": fault.cell, "key": fault.key, "message": fault.message} for fault in faults]
    return {**preview(recipe), "faults": told}, DONE


def audit(arguments: argparse.Namespace) -> CommandResult:
    """What the sources are like."""
    from basereward.recipe import load_recipe

    recipe = load_recipe(arguments.experiment, profile=arguments.profile, overrides=arguments.overrides)
    from basereward.training.audit import audit

    return audit(recipe, model=arguments.model), DONE


def score(arguments: argparse.Namespace) -> CommandResult:
    """Scores for a file."""
    from basereward.cli import api

    result = api.score(
        arguments.model, arguments.file, out=arguments.out, tokens=arguments.tokens, dtype=arguments.dtype
    )
    return result, DONE


def _judge(arguments: argparse.Namespace) -> Any:
    if arguments.judge is None:
        return None
    from basereward.evaluation.judging.run_judge import open_judge

    return open_judge(
        arguments.judge,
        endpoint=arguments.endpoint,
        order=arguments.order,
        votes=arguments.votes,
        prompt=arguments.prompt,
        prompt_file=arguments.prompt_file,
        pattern=arguments.pattern,
        temperature=arguments.temperature,
        max_tokens=arguments.max_tokens,
        concurrency=arguments.concurrency,
        timeout_s=arguments.timeout,
        send=arguments.send,
    )


def evaluate(arguments: argparse.Namespace) -> CommandResult:
    """Measures on benchmarks."""
    from basereward.evaluation.run_benchmark import evaluate

    return evaluate(
        arguments.model,
        arguments.benchmark,
        data=arguments.data,
        scores=arguments.scores,
        out=arguments.out,
        name=arguments.name,
        order=arguments.order,
        allow_partial=arguments.allow_partial,
        judge=_judge(arguments),
        overrides=arguments.overrides,
    ), DONE


def annotate(arguments: argparse.Namespace) -> CommandResult:
    """Reasoning for pairs."""
    from basereward.evaluation.annotation.annotate import annotate

    return annotate(
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
        max_tokens=arguments.max_tokens,
        prompt=arguments.prompt,
        prompt_file=arguments.prompt_file,
        pattern=arguments.pattern,
        overrides=arguments.overrides,
    ), DONE


def ensemble(arguments: argparse.Namespace) -> CommandResult:
    """Several models as one."""
    from basereward.training.ensembles.make import ensemble

    return ensemble(
        arguments.models,
        how=arguments.how,
        text=arguments.text,
        name=arguments.name,
        pairs=arguments.pairs,
        k=arguments.k,
        seed=arguments.seed,
    ), DONE


def report(arguments: argparse.Namespace) -> CommandResult:
    """A page about an experiment, about all, or about evaluations."""
    from basereward.evaluation.reports.report import report_of

    return report_of(arguments.words, profile=arguments.profile, overrides=arguments.overrides, out=arguments.out), DONE


def look(arguments: argparse.Namespace) -> CommandResult:
    """A page about rows."""
    from basereward.evaluation.reports.viewer import look

    return look(
        arguments.source,
        model=arguments.model,
        rows=arguments.rows,
        split=arguments.split,
        out=arguments.out,
        overrides=arguments.overrides,
    ), DONE


def ls(arguments: argparse.Namespace) -> CommandResult:
    """What there is of one kind."""
    if arguments.kind == "runs":
        from basereward.runs.run_folder import broken_runs, list_runs  # not by way of `api`, which takes seconds

        entries = [(run.run_id, f"{run.name}, {run.state}") for run in list_runs()]
        entries += [(name, f"broken: {reason}") for name, reason in broken_runs().items()]
    else:
        from basereward.recipe import names

        entries = [(entry.name, entry.summary) for entry in names(arguments.kind)]
    return {arguments.kind: [{"name": name, "summary": summary} for name, summary in entries]}, DONE


COMMANDS = {
    "check": Command(check, text.check, "find every fault of every cell; no model is loaded"),
    "data": Command(data, text.data, "count what would be trained on: rows, tokens, shares; no model is loaded"),
    "audit": Command(
        audit, text.audit, "describe the sources: lengths, languages, doubtful labels, repeated rows, overlaps"
    ),
    "train": Command(train, text.train, "train and test one reward model"),
    "sweep": Command(sweep, text.sweep, "train every cell of an experiment; finished ones are skipped"),
    "score": Command(score, text.score, "score every response of every row of a file"),
    "eval": Command(evaluate, text.evaluate, "measure a model, or a file of scores made elsewhere, on benchmarks"),
    "annotate": Command(annotate, text.annotate, "have a judge write reasoning for the pairs of a source"),
    "ensemble": Command(ensemble, ensemble_text, "make one model of several trained ones"),
    "report": Command(report, text.report, "write an HTML page of an experiment, of all, or of evaluations"),
    "look": Command(look, text.look, "write an HTML page of the rows of a source: pictures, answers, scores"),
    "ls": Command(ls, text.ls, "list experiments, profiles, sources, benchmarks, heads, losses or runs"),
}
