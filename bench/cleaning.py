"""Measure what cleaning recovers when labels are wrong: with right labels, with wrong ones, and after cleaning.

    python -m bench.cleaning [--noise 0.2 0.0] [--seeds 3] [--folds 2] [--models 3] [--rounds 2]
        [--flip 0 | --no-flip] [--work FOLDER]

Runs the stage `clean` of `experiments/beyond.yaml` on the profile `tiny`: pictures of digits, of which the source
`noisy` makes a share of the labels of train and val wrong, and copies 30 %. Accuracies are on test rows with right
labels, of models that are trained by the recipe of the stage. Intervals are paired, over test prompts: the seeds share
them.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import bootstrap

from basereward.data.curation.label_errors import Decided, precision_and_recall
from basereward.data.sources.noisy import Noisy
from basereward.inference.load_model import load
from basereward.metrics.interval import Interval
from basereward.model.saving.chat_checkpoint import chat_checkpoint
from basereward.pipelines.cleaning.fold_files import file_source
from basereward.pipelines.definition import resolved_recipe
from basereward.pipelines.stages.clean import Clean
from basereward.recipe import load_experiment, make, recipe_sha256
from basereward.recipe.schema import Recipe
from basereward.recipe.stages import Outputs, StageRecipe
from basereward.rl.train import train
from basereward.runs.run_folder import find, finished_with
from bench.timing import quiet_stdout

EXPERIMENT = "beyond"
DRAWS = 2000
Values = NDArray[np.float64]


@dataclass
class Line:
    """Shares of right preferences of each test prompt, of runs with the seeds 0, 1, 2 ...

    >>> line = Line(0.2, clean=[[1.0, 1.0]], noisy=[[1.0, 0.0]], cleaned=[[1.0, 0.5]])
    >>> line.lost, line.gained, line.recovered
    (0.5, 0.25, 0.5)
    """

    noise: float
    clean: list[Sequence[float]] = field(default_factory=list)
    noisy: list[Sequence[float]] = field(default_factory=list)
    cleaned: list[Sequence[float]] = field(default_factory=list)

    @property
    def lost(self) -> float:
        """Accuracy that wrong labels cost."""
        return float(np.mean(self.clean) - np.mean(self.noisy))

    @property
    def gained(self) -> float:
        """Accuracy that cleaning gives."""
        return float(np.mean(self.cleaned) - np.mean(self.noisy))

    @property
    def recovered(self) -> float:
        """The share of the lost accuracy that cleaning gives back; NaN if none is lost."""
        return self.gained / self.lost if self.lost else math.nan

    def intervals(self) -> dict[str, Interval]:
        """95 % intervals of the three numbers, by a bootstrap over test prompts."""
        means = [np.mean(np.asarray(values, float), 0) for values in (self.clean, self.noisy, self.cleaned)]
        found: dict[str, Interval] = {}
        for name, statistic in (("lost", _lost), ("gained", _gained), ("recovered", _recovered)):
            drawn = bootstrap(means, statistic, paired=True, method="percentile", n_resamples=DRAWS, rng=0)
            found[name] = (float(drawn.confidence_interval.low), float(drawn.confidence_interval.high))
        return found

    def __str__(self) -> str:
        intervals = self.intervals()
        cells = [f"{self.noise:.0%}", *map(_percent, (self.clean, self.noisy, self.cleaned))]
        for name in ("lost", "gained", "recovered"):
            low, high = intervals[name]
            is_shown = name != "recovered" or self.noise
            cells.append(f"{100 * getattr(self, name):.1f} ({100 * low:.1f} to {100 * high:.1f})" if is_shown else "-")
        return f"| {' | '.join(cells)} |"


def _lost(clean: Values, noisy: Values, cleaned: Values, axis: int = -1) -> Values:
    return np.asarray(clean.mean(axis) - noisy.mean(axis))


def _gained(clean: Values, noisy: Values, cleaned: Values, axis: int = -1) -> Values:
    return np.asarray(cleaned.mean(axis) - noisy.mean(axis))


def _recovered(clean: Values, noisy: Values, cleaned: Values, axis: int = -1) -> Values:
    lost = _lost(clean, noisy, cleaned, axis)
    return np.asarray(_gained(clean, noisy, cleaned, axis) / np.where(lost == 0, np.nan, lost))


def _percent(of_seeds: Sequence[Sequence[float]]) -> str:
    """The means of all seeds, in percent.

    >>> _percent([[1.0, 0.0], [1.0, 1.0]])
    '50.0, 100.0'
    """
    return ", ".join(f"{100 * float(np.mean(values)):.1f}" for values in of_seeds)


def stages(seed: int) -> dict[str, StageRecipe]:
    """The stages of the experiment on the profile `tiny`, by name, with a seed for data and weights.

    >>> list(stages(0))[:2]
    ['start', 'clean']
    """
    overrides = (f"seeds.data={seed}", f"seeds.init={seed}", "tracking.system_metrics=null")
    return {stage.name: stage for stage in load_experiment(EXPERIMENT, profile="tiny", overrides=overrides).stages}


def started() -> Outputs:
    """Train what the models start from, once; give it as an output of its stage."""
    recipe = stages(0)["start"].recipe
    assert recipe is not None
    return {"start": {"checkpoint": str(chat_checkpoint(trained(recipe)))}}


def recipe_and_options(start: Outputs, *, noise: float, seed: int) -> tuple[Recipe, dict[str, Any]]:
    """The recipe of the models of the stage `clean`, with a share of wrong labels, and the arguments of the stage."""
    stage = stages(seed)["clean"]
    assert stage.recipe is not None
    recipe = resolved_recipe(stage.recipe, start)
    noisy = {name: {**node, "flipped": noise, "seed": seed} for name, node in recipe.data.sources.items()}
    options = {name: value for name, value in stage.node.items() if name != "_target_"}
    return with_sources(recipe, noisy), options


def with_sources(recipe: Recipe, sources: Mapping[str, Any]) -> Recipe:
    """The recipe with other sources."""
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, sources=dict(sources)))


def trained(recipe: Recipe) -> Path:
    """Train a recipe, or take the run that has; give the folder of the model."""
    finished = finished_with(recipe_sha256(recipe))
    return finished.model if finished is not None else find(str(train(recipe)["run_id"])).model


def trained_outcomes(recipe: Recipe, tests: Recipe) -> list[float]:
    """Train a recipe; give the share of right preferences for each test group of another one."""
    return outcomes(str(trained(recipe)), tests)


def outcomes(model: str, tests: Recipe) -> list[float]:
    """The share of right preferences of a model for each test group of a recipe."""
    scorer = load(model)
    shares: list[float] = []
    for name, node in tests.data.sources.items():
        groups = list(make(node, "sources", name).groups("test"))
        for group, scores in zip(groups, scorer.score_groups(groups), strict=True):
            margins = [scores[one.winner] - scores[one.loser] for one in group.preferences if not one.tie]
            shares.append(sum(margin > 0 for margin in margins) / len(margins))
    return shares


@dataclass(frozen=True)
class Found:
    """What a round of cleaning found.

    >>> str(Found(0.2, 0, 1, 0.9, 0.8, 200, 0.7, True))
    '| 20% | 0 | 1 | 90.0 | 80.0 | 200 | 70.0 | yes |'
    """

    noise: float
    seed: int
    cleaned: int
    precision: float
    recall: float
    changed: int
    held_out: float
    applied: bool

    def __str__(self) -> str:
        shares = (f"{100 * value:.1f}" for value in (self.precision, self.recall))
        end = (str(self.changed), f"{100 * self.held_out:.1f}", "yes" if self.applied else "no")
        return f"| {' | '.join([f'{self.noise:.0%}', str(self.seed), str(self.cleaned), *shares, *end])} |"


def clean(recipe: Recipe, folder: Path, options: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run the stage in a folder; give its facts and its decisions."""
    folder.mkdir(parents=True, exist_ok=True)
    result = Clean(recipe=dataclasses.asdict(recipe), **options).run(folder)
    lines = Path(result.outputs["decisions"]).read_text().splitlines()
    return dict(result.facts), [json.loads(line) for line in lines]


def found_in(
    decisions: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], recipe: Recipe, *, noise: float, seed: int
) -> list[Found]:
    """Precision and recall of the changed preferences of every round."""
    wrong: dict[str, bool] = {}
    for name, node in recipe.data.sources.items():
        source: Noisy = make(node, "sources", name)
        for group in source.groups("train"):
            wrong[group.id] = source.is_wrong(group.id)
    found: list[Found] = []
    for measured in facts["rounds"][1:]:
        decided: list[Decided] = []
        for row in decisions:
            if row["round"] == measured["cleaned"]:
                decided.append(Decided(row["id"], row["winner"], row["loser"], row["margin"], row["decision"]))
        precision, recall, changed = precision_and_recall(decided, wrong)
        is_applied = measured["cleaned"] == facts["round"]
        found.append(
            Found(noise, seed, measured["cleaned"], precision, recall, changed, measured["held_out"], is_applied)
        )
    return found


def measure(line: Line, start: Outputs, *, seed: int, work: Path, options: Mapping[str, Any]) -> list[Found]:
    """Train with right labels, with wrong ones and after cleaning, and add the outcomes to the line.

    Where no cleaning is kept, the rows are those given, and the outcomes are those of the model that learned from them.
    """
    began, cpu = time.time(), time.process_time()
    right, defaults = recipe_and_options(start, noise=0.0, seed=seed)
    noisy, _ = recipe_and_options(start, noise=line.noise, seed=seed)
    line.clean.append(trained_outcomes(right, right))
    line.noisy.append(line.clean[-1] if line.noise == 0 else trained_outcomes(noisy, right))
    # Runs are found again by their recipes, which name the files of rows: other options need other files.
    given = "".join(f"-{name}={value}" for name, value in sorted(options.items()))
    folder = work / f"clean-{line.noise}-{seed}{given}"
    facts, decisions = clean(noisy, folder, {**defaults, **options})
    cleaned: dict[str, Any] = {}
    for name in noisy.data.sources:
        cleaned[name] = file_source(folder / "rows" / f"{name}.jsonl", held_out=folder / "held_out" / f"{name}.jsonl")
    is_kept = facts["round"] > 0
    line.cleaned.append(trained_outcomes(with_sources(noisy, cleaned), right) if is_kept else line.noisy[-1])
    found = found_in(decisions, facts, noisy, noise=line.noise, seed=seed)
    shown = [_percent(values[-1:]) for values in (line.clean, line.noisy, line.cleaned)]
    seconds = f"{time.process_time() - cpu:.0f} processor seconds, {time.time() - began:.0f} s"
    print(f"noise {line.noise}, seed {seed}: {' -> '.join(shown)}, {seconds}", file=sys.stderr, flush=True)
    for one in found:
        print(f"  {one}", file=sys.stderr, flush=True)
    return found


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.cleaning")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.2, 0.0], help="shares of wrong labels")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default: 3)")
    parser.add_argument("--folds", type=int, help="folds of the rows; 1: models score what they were trained on")
    parser.add_argument("--models", type=int, help="models of each fold (default: the recipe's)")
    parser.add_argument("--rounds", type=int, help="the most cleanings (default: the recipe's)")
    parser.add_argument("--flip", type=float, help="margin from which errors are flipped (default: the recipe's)")
    parser.add_argument("--no-flip", action="store_true", help="drop all errors")
    parser.add_argument("--work", type=Path, help="folder for runs and their records (default: a temporary one)")
    args = parser.parse_args()
    options: dict[str, Any] = {}
    for name in ("folds", "models", "rounds"):
        if getattr(args, name) is not None:
            options[name] = getattr(args, name)
    if args.flip is not None or args.no_flip:
        options["flip"] = args.flip
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        os.environ["BASEREWARD_RUNS"] = str(work / "runs")
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{work / 'mlflow.db'}"
        with quiet_stdout():
            text = measured_tables(args.noise, seeds=args.seeds, work=work, options=options)
    print(f"{datetime.date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, float32\n\n{text}")
    return 0


def measured_tables(noises: Sequence[float], *, seeds: int, work: Path, options: Mapping[str, Any]) -> str:
    """The accuracies, and what each round found, as Markdown."""
    lines = [Line(noise) for noise in noises]
    found: list[Found] = []
    start = started()
    for seed in range(seeds):
        for line in lines:
            found += measure(line, start, seed=seed, work=work, options=options)
    head = "| wrong labels | clean | noisy | cleaned | lost (95 %) | gained (95 %) | recovered, % of lost (95 %) |"
    second = "| wrong labels | seed | round | precision | recall | changed | held-out accuracy | applied |"
    tables = [[head, f"|{'---|' * 7}", *map(str, lines)], [second, f"|{'---|' * 8}", *map(str, found)]]
    return "\n\n".join("\n".join(table) for table in tables)


if __name__ == "__main__":
    sys.exit(main())
