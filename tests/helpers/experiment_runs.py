"""Finished runs of an experiment without training, with chosen scores, curves and evaluations."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from basereward.evaluation.write_evaluation import write_evaluation
from basereward.recipe import Cell, recipe_sha256, recipe_yaml
from basereward.runs.run_folder import RunFolder
from basereward.runs.score_files import ScoredGroup, write_scores

STEPS = (0, 10, 20, 30)


def finished_run(
    cell: Cell, *, accuracy: float = 0.8, groups: Sequence[ScoredGroup] | None = None, seed: int = 0, **more: Any
) -> RunFolder:
    """Write a finished run of a cell; without `groups` about `accuracy` of 200 pairs from two sources are right."""
    run = RunFolder.create(recipe_yaml(cell.recipe), recipe_sha256=recipe_sha256(cell.recipe), name=cell.recipe.name)
    scored = groups if groups is not None else drawn_groups(accuracy, seed=seed)
    write_scores(run.scores / "test.jsonl", scored)
    metrics = {"test/digits/calibration_error": 0.125, "test/digits/longer_wins": 0.25, "test/tokens_per_pair": 15.5}
    metrics["test/digits/follows_length"] = math.nan
    run.write_result(
        {"metrics": metrics, "pair_s": 0.0125, "seconds": 61.0, "skipped": {"digits": {"empty": 3}}} | more
    )
    curve = [{"train/loss": 0.7 - 0.01 * step * accuracy, "val/pair_accuracy": 0.5 + 0.01 * step} for step in STEPS]
    records = [
        {"kind": "metrics", "step": at, "time": 0, "values": values} for at, values in zip(STEPS, curve, strict=True)
    ]
    records.append({"kind": "metrics", "step": 30, "time": 0, "values": {"mem/peak_gib": 1.75}})
    run.journal.folder.mkdir()
    start = {"kind": "start", "uri": "sqlite:///store.db", "experiment": "e", "name": "n", "parent": None, "tags": {}}
    run.journal.append([start | {"time": 0}, *records])
    run.mark("finished")
    return run


def drawn_groups(accuracy: float, *, seed: int) -> list[ScoredGroup]:
    """Return random scores of two sources with 100 pairs each; half of the winners are one to five tokens longer."""
    rng, lengths = random.Random(seed), random.Random(1)
    groups = []
    for index in range(200):
        margin = rng.uniform(0.1, 3) * (1 if rng.random() < accuracy else -1)
        pair = [8 + lengths.randint(-5, 5), 8]
        source = ("digits", "numbers")[index % 2]
        groups.append(ScoredGroup(f"{index}", source, [margin, 0.0], pair, [(0, 1, False)]))
    return groups


def pairs(right: int, total: int, *, source: str = "digits") -> list[ScoredGroup]:
    """Return `right` right pairs of `total`; in the first half the winner is longer."""
    return [
        ScoredGroup(
            f"{source}-{index}",
            source,
            [1.0 if index < right else -1.0, 0.0],
            [2 if index < total / 2 else 1, 1],
            [(0, 1, False)],
        )
        for index in range(total)
    ]


def write_measures(
    run: RunFolder, benchmark: str, variants: Mapping[str, Any], judged: Sequence[Any], *, items: int | None = None
) -> Path:
    """Write an evaluation of a run in the format of `eval`, with measures of the protocol and without baselines.
    `items` is the size of the benchmark if some items were not scored."""
    folder = run.path / "evaluations" / benchmark
    folder.mkdir(parents=True)
    head = {"benchmark": benchmark, "version": "1", "digest": "0", "name": run.name, "model": run.run_id}
    head |= {"kind": "correct", "order": None, "votes": None, "items": items or len(judged), "scored": len(judged)}
    partial = None if items in (None, len(judged)) else f"{len(judged)} of {items} are scored"
    head |= {"expected": items or len(judged), "partial": partial, "fingerprint": None}
    measures = {
        name: {metric: measure.as_dict() | {"baselines": {}} for metric, measure in variant(judged).items()}
        for name, variant in variants.items()
        if name not in ("over_votes", "per_vote", "length_controlled")
    }
    write_evaluation(folder, head | {"run_id": run.run_id, "variants": measures}, judged)
    return folder


def written_recipe(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    """Write an experiment file."""
    (folder / f"{name}.yaml").write_text(f"# {name}\n" + json.dumps(content))
