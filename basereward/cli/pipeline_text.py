"""Text about pipelines and their stages for the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from basereward.cli.tables import format_number, format_percent, format_table
from basereward.io.progress.displays import format_seconds

MEASURES = ("pair_accuracy", "accuracy", "order_consistency", "exact_match")
"""Measures of a training that are shown, on all test rows; all are in MLflow and in the output of `--json`."""


def format_pipeline(result: Mapping[str, Any]) -> Iterator[str]:
    """A table of the stages with their runs, their main numbers, and tables of evaluations and of the cells of sweeps.

    >>> stage = {"name": "hard", "does": "select", "status": "finished", "seconds": 2.0, "run_id": "r2"}
    >>> stage |= {"metrics": {"select/kept": 7.0}, "facts": {}}
    >>> list(format_pipeline({"pipeline_id": "r1", "stages": [stage]}))[-1]
    'pipeline r1: 1 stage finished, 0 skipped'
    """
    stages = result["stages"]
    rows: list[tuple[str, ...]] = []
    for stage in stages:
        numbers = _main_numbers(stage).items()
        shown = ", ".join(f"{name.rpartition('/')[2]} {format_number(value)}" for name, value in numbers)
        seconds = format_seconds(stage["seconds"])
        rows.append((stage["name"], stage["does"], stage["status"], seconds, stage["run_id"], shown))
    yield from format_table(("stage", "does", "status", "time", "run", "numbers"), rows)
    for stage in stages:
        yield from _format_measures(stage["name"], stage["facts"].get("results", {}))
        yield from _format_cells(stage["name"], stage["facts"])
    finished = sum(stage["status"] == "finished" for stage in stages)
    word = "stage" if finished == 1 else "stages"
    yield f"pipeline {result['pipeline_id']}: {finished} {word} finished, {len(stages) - finished} skipped"


def _main_numbers(stage: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that the line of a stage has."""
    # Those of an evaluation and of a sweep have tables of their own.
    if "results" in stage["facts"] or "cells" in stage["facts"]:
        return {}
    metrics = stage["metrics"]
    if stage["does"] == "train":
        return {name: metrics[f"test/{name}"] for name in MEASURES if f"test/{name}" in metrics}
    return dict(metrics)


def _format_measures(name: str, results: Mapping[str, Any]) -> Iterator[str]:
    rows: list[tuple[str, ...]] = []
    for place, benchmarks in results.items():
        for benchmark, variants in benchmarks.items():
            for variant, measures in variants.items():
                # Beside the variants is the number of verdicts that could not be read.
                if not isinstance(measures, Mapping):
                    continue
                for metric, measure in measures.items():
                    rows.append((f"{place} {benchmark}", variant, metric, *_columns(measure)))
    if rows:
        yield ""
        yield from format_table((name, "counted by", "measure", "%", "of", "95 %", "undecided"), rows)
        yield ""


def _format_cells(name: str, facts: Mapping[str, Any]) -> Iterator[str]:
    """The measures of the cells and ensembles of a sweep, and its comparisons in words."""
    cells = [*facts.get("cells", []), *facts.get("ensembles", [])]
    if not cells:
        return
    measures = [measure for measure in MEASURES if any(f"test/{measure}" in cell["metrics"] for cell in cells)]
    rows: list[tuple[str, ...]] = []
    for cell in cells:
        values = [format_number(cell["metrics"].get(f"test/{measure}")) for measure in measures]
        rows.append((cell["name"], cell["status"], *values, cell["run_id"] or "-"))
    yield ""
    yield from format_table((name, "status", *measures, "run"), rows)
    yield from facts.get("differences", [])
    yield ""


def _columns(measure: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = measure["low"], measure["high"]
    interval = "-" if low is None else f"{format_percent(low)}-{format_percent(high)}"
    counts = f"{measure['numerator']:.6g}/{measure['denominator']:.6g}"
    return (format_percent(measure["value"]), counts, interval, f"{measure['undecided']}")
