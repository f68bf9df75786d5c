"""What the runs of an experiment kept, by recipe: cells that differ in their seeds alone are one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from basereward.errors import DataError
from basereward.evaluation.evaluation_folder import Evaluation, read_evaluation
from basereward.recipe import Experiment
from basereward.runs.tracking.mlflow_store import masked
from basereward.sweeps.results import CellResult, results
from basereward.runs.run_folder import RunFolder
from basereward.runs.score_files import ScoredGroup, known_scores
from basereward.runs.common_test_set import Tested, by_key

CURVES = ("train/loss", "val/pair_accuracy")
PEAK = "mem/peak_gib"


@dataclass(frozen=True)
class Trained:
    """A finished run and what it kept; what it did not keep is empty."""

    name: str  # of the cell or ensemble, seeds included
    run: RunFolder
    told: Mapping[str, Any]  # its result
    groups: Sequence[ScoredGroup]  # of the test data
    curves: Mapping[str, Sequence[tuple[int, float]]]  # (step, value)
    peak_gib: float | None
    store: str | None  # where its MLflow run is, for people to read
    evaluations: Sequence[Evaluation]
    faults: Sequence[str]  # evaluations that cannot be read

    @property
    def metrics(self) -> Mapping[str, float]:
        found: Mapping[str, float] = self.told.get("metrics", {})
        return found

    @cached_property
    def tested(self) -> Tested:
        """The groups in which there is something to be right or wrong about."""
        return by_key(self.groups)


@dataclass(frozen=True)
class Contender:
    """A recipe with all its seeds, or an ensemble; one row of every table."""

    name: str
    results: Sequence[CellResult]
    trained: Sequence[Trained] = field(default=())

    @property
    def missing(self) -> list[str]:
        """Cells and ensembles without a finished run."""
        return [result.name for result in self.results if result.run is None]

    @cached_property
    def sources(self) -> list[str]:
        """Of the test data, in their order."""
        return list(dict.fromkeys(group.source for each in self.trained for group in each.groups))


def gather(experiment: Experiment) -> list[Contender]:
    """Recipes in the order of their first cells, then ensembles."""
    by_name: dict[str, list[CellResult]] = {}
    for result in results(experiment):
        by_name.setdefault(result.cell.without_seeds if result.cell else result.name, []).append(result)
    return [
        Contender(name, same, [_trained(result, result.run) for result in same if result.run is not None])
        for name, same in by_name.items()
    ]


def _trained(result: CellResult, run: RunFolder) -> Trained:
    scores = run.scores / "test.jsonl"
    curves, peak, store = _journal(run)
    evaluations, faults = _evaluations(run)
    return Trained(
        name=result.name,
        run=run,
        told=run.result() or {},
        groups=known_scores(scores),
        curves=curves,
        peak_gib=peak,
        store=store,
        evaluations=evaluations,
        faults=faults,
    )


def _journal(run: RunFolder) -> tuple[dict[str, list[tuple[int, float]]], float | None, str | None]:
    """Curves, the most memory held, and the store, from what was recorded for MLflow; no server is asked."""
    curves: dict[str, dict[int, float]] = {name: {} for name in CURVES}
    peaks: list[float] = []
    store = None
    position = 0
    while records := run.outbox.read(position):
        for record, _ in records:
            if record["kind"] == "start":
                store = masked(record["uri"])
            if record["kind"] == "metrics":
                for name in CURVES:
                    if name in record["values"]:
                        curves[name][record["step"]] = record["values"][name]
                if PEAK in record["values"]:
                    peaks.append(record["values"][PEAK])
        position = records[-1][1]
    return {name: sorted(values.items()) for name, values in curves.items()}, max(peaks, default=None), store


def _evaluations(run: RunFolder) -> tuple[list[Evaluation], list[str]]:
    found, faults = [], []
    for file in sorted(run.evaluations.glob("*/evaluation.json")):
        try:
            found.append(read_evaluation(file.parent))
        except DataError as error:
            faults.append(str(error))
    return found, faults
