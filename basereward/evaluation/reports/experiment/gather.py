"""Collect what the runs of an experiment recorded, by recipe. Cells that differ only in their seeds are one recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from basereward.errors import DataError
from basereward.evaluation.evaluation_folder import Evaluation, read_evaluation
from basereward.recipe import Experiment, recipe_sha256
from basereward.runs.common_test_set import TestedGroups, by_key
from basereward.runs.run_folder import RunFolder, unfinished_with
from basereward.runs.score_files import ScoredGroup, known_scores
from basereward.runs.tracking.mlflow_store import masked
from basereward.sweeps.results import CellResult, results

# Of reinforcement learning: metrics of the rollouts of a step, and of greedy answers to held-out prompts.
REWARD, EXACT_MATCH = "train/reward", "train/policy/exact_match"
HELD_OUT, HELD_OUT_REWARD = "val/exact_match", "val/reward"
ROLLOUT_LENGTH, KL = "train/completions/mean_length", "train/kl/reference"
ENTROPY, PRE_CLIP = "train/entropy", "train/clip_ratio/pre_clip"
# Of a judge: shares of its verdicts about held-out pairs, in both orders of the responses.
VERDICTS_RIGHT, ORDER_CONSISTENCY, NO_VERDICT = "val/accuracy", "val/order_consistency", "val/no_verdict"
RIGHT, WRONG = "train/policy/reward_right", "train/policy/reward_wrong"
WRONG_PROBABILITY = "train/policy/wrong_probability"
CURVES = (
    *("train/loss", "val/pair_accuracy"),
    *(REWARD, EXACT_MATCH, HELD_OUT, HELD_OUT_REWARD, ROLLOUT_LENGTH, KL, WRONG_PROBABILITY),
    *(ENTROPY, PRE_CLIP, VERDICTS_RIGHT, ORDER_CONSISTENCY, NO_VERDICT),
    *(f"{name}{quantile}" for name in (RIGHT, WRONG) for quantile in ("", "_p10", "_p90")),
)
PEAK_MEMORY = "mem/peak_gib"

Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class TrainedRun:
    """A finished run and what it recorded. What it did not record is empty."""

    name: str
    """of the cell or ensemble, seeds included"""
    run: RunFolder
    result: Mapping[str, Any]
    """what `train --json` printed"""
    groups: Sequence[ScoredGroup]
    """of the test data"""
    curves: Mapping[str, Sequence[tuple[int, float]]]
    """metric -> (optimizer step, value)"""
    peak_gib: float | None
    store: str | None
    """the address of its MLflow store, without credentials"""
    created: float
    """in seconds since 1970"""
    commit: str | None
    """of the code that trained it; None if that was not a checkout"""
    evaluations: Sequence[Evaluation]
    faults: Sequence[str]
    """why some evaluations cannot be read"""

    @property
    def metrics(self) -> Mapping[str, float]:
        """The final metrics, such as `test/<source>/pair_accuracy`."""
        metrics: Mapping[str, float] = self.result.get("metrics", {})
        return metrics

    @cached_property
    def tested(self) -> TestedGroups:
        """Test groups with at least one pair that is no tie, by what identifies a group across runs."""
        return by_key(self.groups)


@dataclass(frozen=True)
class Contender:
    """A recipe with all its seeds, or an ensemble: one row of every table of the page.

    >>> Contender("linear", results=[]).missing
    []
    """

    name: str
    results: Sequence[CellResult]
    trained: Sequence[TrainedRun] = field(default=())
    failed: Sequence[str] = field(default=())
    """the class of the error of each cell whose newest run has failed"""

    @property
    def missing(self) -> list[str]:
        """Names of cells and ensembles without a finished run."""
        return [result.name for result in self.results if result.run is None]

    @cached_property
    def sources(self) -> list[str]:
        """The sources of its test data, in order of first appearance."""
        sources: dict[str, None] = {}
        for trained in self.trained:
            sources |= dict.fromkeys(group.source for group in trained.groups)
        return list(sources)


def gather(experiment: Experiment) -> list[Contender]:
    """Read the runs of an experiment.

    Returns:
        Recipes in the order of their first cells, then ensembles.
    """
    results_by_name: dict[str, list[CellResult]] = {}
    for result in results(experiment):
        name = result.cell.without_seeds if result.cell else result.name
        results_by_name.setdefault(name, []).append(result)
    contenders: list[Contender] = []
    for name, members in results_by_name.items():
        trained = [_trained(result, result.run) for result in members if result.run is not None]
        contenders.append(Contender(name, members, trained, _errors(members)))
    return contenders


def _errors(results_of_cells: Iterable[CellResult]) -> list[str]:
    """The classes of the errors of cells without a finished run whose newest run has failed."""
    errors: list[str] = []
    for result in results_of_cells:
        if result.run is not None or result.cell is None:
            continue
        stopped = unfinished_with(recipe_sha256(result.cell.recipe))
        if stopped is not None and stopped.state == "failed":
            errors.append(str(stopped.status.get("error_type")))
    return errors


def all_results(contenders: Iterable[Contender]) -> list[CellResult]:
    """The results of all cells and ensembles, finished or not.

    >>> all_results([Contender("linear", results=[])])
    []
    """
    results_of_all: list[CellResult] = []
    for contender in contenders:
        results_of_all += contender.results
    return results_of_all


def all_sources(contenders: Sequence[Contender]) -> list[str]:
    """The sources of the test data of all recipes, in order of first appearance.

    >>> all_sources([Contender("linear", results=[])])
    []
    """
    sources: dict[str, None] = {}
    for contender in contenders:
        sources |= dict.fromkeys(contender.sources)
    return list(sources)


def _trained(result: CellResult, run: RunFolder) -> TrainedRun:
    curves, peak_gib, store = _recorded(run)
    start = run.journal.start() or {}
    evaluations, faults = _evaluations(run)
    return TrainedRun(
        name=result.name,
        run=run,
        result=run.result() or {},
        groups=known_scores(run.scores / "test.jsonl"),
        curves=curves,
        peak_gib=peak_gib,
        store=store,
        created=float(run.status["created"]),
        commit=_commit(start.get("tags", {})),
        evaluations=evaluations,
        faults=faults,
    )


def _commit(tags: Mapping[str, str]) -> str | None:
    """The commit, marked where the code had further changes."""
    commit = tags.get("git.commit")
    if commit is None:
        return None
    return f"{commit[:10]}, with changes" if tags.get("git.dirty") == "true" else commit[:10]


def _recorded(run: RunFolder) -> tuple[dict[str, Curve], float | None, str | None]:
    """The curves, the peak memory in GiB, and the MLflow store.

    They come from the local journal of the run, so that a report needs no tracking server.
    """
    # By step: a resumed run records some steps again, and the last record is the one that counts.
    curves: dict[str, dict[int, float]] = {name: {} for name in CURVES}
    peaks: list[float] = []
    store = None
    position = 0
    while records := run.journal.read(position):
        for record, _ in records:
            if record["kind"] == "start":
                store = masked(record["uri"])
            elif record["kind"] == "metrics":
                values = record["values"]
                for name in CURVES:
                    if name in values:
                        curves[name][record["step"]] = values[name]
                if PEAK_MEMORY in values:
                    peaks.append(values[PEAK_MEMORY])
        position = records[-1][1]
    return {name: sorted(steps.items()) for name, steps in curves.items()}, max(peaks, default=None), store


def _evaluations(run: RunFolder) -> tuple[list[Evaluation], list[str]]:
    evaluations, faults = [], []
    for file in sorted(run.evaluations.glob("*/evaluation.json")):
        try:
            evaluations.append(read_evaluation(file.parent))
        except DataError as error:
            faults.append(str(error))
    return evaluations, faults
