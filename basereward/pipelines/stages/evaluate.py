"""The stage that measures a model: a judge in both orders and by votes, another model by its scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Interval

from basereward.errors import DataError
from basereward.evaluation.annotation.annotate import pair_rows
from basereward.evaluation.benchmark import load_benchmark, open_pairs
from basereward.evaluation.judging.run_judge import open_trained_judge
from basereward.evaluation.run_benchmark import evaluate
from basereward.inference.model_content import named_model_content
from basereward.io.files import write_atomic
from basereward.io.limits import read_json_object
from basereward.pipelines.stages.contracts import PREVIEWED, StageResult, definition, write_rows
from basereward.pipelines.stages.inputs import benchmark_files, source_files
from basereward.recipe.fragment import assign_overrides, load_fragment, load_source

MEASURED = "evaluation.json"
"""The last file of an evaluation."""


class Evaluate:
    """Measures a model on benchmarks, on rows of a file, or on a part of a source.

    A judge is asked greedily in both orders, which gives its accuracy and the consistency between the orders, and then
    for votes, each in an order of its own. Output: `results`, a file with all measures.

    Args:
        model: what `load` opens, such as `${reinforce.run}`.
        judge: whether it is a judge that writes reasoning and a verdict; otherwise it is measured by its scores.
        benchmarks: names in `experiments/benchmarks`, or YAML files.
        data: a file of pairs.
        source: a source whose pairs are measured; as of the stage `annotate`.
        split: of the source.
        limit: the most pairs of the source, drawn by `seed`; null: all.
        seed: of the draw.
        votes: of a judge, an odd number; 1: no votes.
        temperature: of the votes.
        overrides: `key=value` for arguments of the benchmarks, as of `basereward eval`.
    """

    outputs: ClassVar[tuple[str, ...]] = ("results",)
    uncounted: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        model: str,
        judge: bool = True,
        benchmarks: list[str] | None = None,
        data: str | None = None,
        source: str | dict[str, Any] | None = None,
        split: Literal["train", "val", "test"] = "test",
        limit: Annotated[int, Ge(1)] | None = None,
        seed: int = 0,
        votes: Annotated[int, Interval(ge=1, le=15)] = 5,
        temperature: Annotated[float, Ge(0)] = 1.0,
        overrides: list[str] | None = None,
    ) -> None:
        if votes % 2 == 0:
            raise ValueError(f"votes={votes} may have no majority; give an odd number")
        if votes > 1 and not temperature:
            raise ValueError(f"votes={votes} at temperature=0 would be one vote; raise the temperature, or set votes=1")
        if [bool(benchmarks), data is not None, source is not None].count(True) != 1:
            raise ValueError("give one of `benchmarks`, `data` and `source`")
        self.model = model
        self.judge = judge
        self.benchmarks = benchmarks or []
        self.data = data
        self.source = source
        self.split: Literal["train", "val", "test"] = split
        self.limit = limit
        self.seed = seed
        self.votes = votes
        self.temperature = temperature
        self.overrides = overrides or []

    def definitions(self) -> Mapping[str, Any]:
        """As `Stage.definitions`: the content of the model, the benchmarks, and the source if it is named."""
        source = self.source
        defined: dict[str, Any] = {"model": definition(partial(named_model_content, self.model))}
        for name in self.benchmarks:
            defined[f"benchmark {name}"] = definition(partial(load_fragment, name, "benchmarks"))
        if isinstance(source, str):
            defined["source"] = definition(partial(load_source, source))
        return defined

    def inputs(self) -> Sequence[Path]:
        """As `Stage.inputs`: those of the pairs, the source and the benchmarks."""
        files = benchmark_files(self.benchmarks, overrides=self.overrides, data=self.data)
        return [*files, *source_files(self.source)]

    def preview(self, folder: Path) -> Mapping[str, str]:
        """As `Stage.preview`; opens the benchmarks and reads rows."""
        overrides = assign_overrides(self.benchmarks, self.overrides) if self.benchmarks else {}
        for benchmark in self.benchmarks:
            load_benchmark(benchmark, overrides=overrides[benchmark])
        if self.data is not None:
            open_pairs(self.data)
        if self.source is not None:
            pair_rows(self.source, split=self.split, folder=folder, groups=PREVIEWED)
        return {"results": str(folder / "results.json")}

    def run(self, folder: Path) -> StageResult:
        """As `Stage.run`; answers and scores are kept as they arrive."""
        data = self.data
        if self.source is not None:
            rows = folder / "pairs.jsonl"
            if not rows.is_file():
                found = pair_rows(self.source, split=self.split, folder=folder, limit=self.limit, seed=self.seed)
                write_rows(rows, found)
            data = str(rows)
        results: dict[str, Any] = {}
        for place in self._places():
            results[place] = self._measured(place, folder / place, data)
        file = folder / "results.json"
        write_atomic(file, json.dumps(results, indent=2) + "\n")
        return StageResult({"results": str(file)}, dict(_metrics(results)), {"results": results})

    def _places(self) -> Sequence[str]:
        if not self.judge:
            return ("scores",)
        return ("orders", "votes") if self.votes > 1 else ("orders",)

    def _measured(self, place: str, folder: Path, data: str | None) -> dict[str, Any]:
        """The measures of one evaluation, by benchmark; read where an earlier call has finished it."""
        if not _is_complete(folder, len(self.benchmarks) or 1):
            judge = None
            if place == "orders":
                judge = open_trained_judge(self.model, order="both")
            elif place == "votes":
                judge = open_trained_judge(self.model, order="random", votes=self.votes, temperature=self.temperature)
            evaluate(
                self.model,
                self.benchmarks,
                data=data,
                out=str(folder),
                judge=judge,
                overrides=self.overrides,
            )
        measures: dict[str, Any] = {}
        for file in sorted(folder.glob(f"*/{MEASURED}")):
            facts = read_json_object(file, error=DataError)
            cost = facts.get("cost") or {}
            measures[facts["benchmark"]] = {"unread": cost.get("unread"), **facts["variants"]}
        return measures


def _is_complete(folder: Path, benchmarks: int) -> bool:
    """Whether every benchmark has been measured."""
    return len(list(folder.glob(f"*/{MEASURED}"))) == benchmarks


def _metrics(results: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The values of all measures by a name for MLflow, as in `votes/pairs/over_votes/votes_5`."""
    metrics: list[tuple[str, float]] = []
    for place, benchmarks in results.items():
        for benchmark, variants in benchmarks.items():
            for variant, measures in variants.items():
                if not isinstance(measures, Mapping):
                    continue
                for name, measure in measures.items():
                    if measure["value"] is not None:
                        metrics.append((f"{place}/{benchmark}/{variant}/{name}", measure["value"]))
    return metrics
