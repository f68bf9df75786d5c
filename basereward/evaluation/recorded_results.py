"""The results of a model's evaluations, as its model card lists them."""

from __future__ import annotations

from pathlib import Path

from basereward.evaluation.evaluation_folder import read_evaluation
from basereward.evaluation.subject import FOLDER
from basereward.inference.export.model_card import BenchmarkResult


def recorded_results(model: Path) -> list[BenchmarkResult]:
    """Every metric of every evaluation in the run of a model, in the order of their names.

    Args:
        model: the folder of a saved model. If it is in a run, the evaluations of the run are read.

    Raises:
        DataError: an evaluation is damaged.

    >>> recorded_results(Path("no/run/model"))
    []
    """
    folder = model.parent / FOLDER
    results: list[BenchmarkResult] = []
    # Only finished evaluations have this file.
    for file in sorted(folder.glob("*/evaluation.json")):
        evaluation = read_evaluation(file.parent)
        for variant, measures in evaluation.variants.items():
            for metric, measure in measures.items():
                if measure.value is not None:
                    results.append(
                        BenchmarkResult(
                            benchmark=evaluation.benchmark,
                            title=evaluation.benchmark,
                            variant=variant,
                            metric=metric,
                            value=measure.value,
                            low=measure.low,
                            high=measure.high,
                            interval=measure.interval,
                            items=evaluation.scored,
                            partial=evaluation.partial,
                        )
                    )
    return results
