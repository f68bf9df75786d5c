"""Rounds of cleaning: models score the rows that they were not trained on, and their decisions make the next rows.

DT2IT-MRM (arXiv 2604.19544) cleans open data by its current reward model, trains on the rest, and cleans all of it
again. Here a model scores only rows of a fold that it was not trained on, and held-out rows decide when to stop.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basereward.data.curation.label_errors import (
    Decided,
    ErrorRule,
    LabelDecision,
    confident_threshold,
    correct,
    margins_of,
)
from basereward.data.schema.group import Group
from basereward.errors import DataError
from basereward.inference.parallel_scorer import open_scorer
from basereward.inference.sharded_scores import scores_of
from basereward.io.files import atomic_file
from basereward.io.progress import announce, track
from basereward.pipelines.cleaning.fold_files import FoldFiles, file_source, read_groups, write_line
from basereward.pipelines.definition import shown_path
from basereward.recipe import Recipe, recipe_yaml
from basereward.recipe.schema import Seeds
from basereward.sweeps.cell_worker import train_task


@dataclass(frozen=True)
class Round:
    """Rows that were cleaned a number of times, and how models that were trained on them rank held-out rows.

    Attributes:
        cleaned: how often; 0: the rows as given.
        held_out: pair accuracy on held-out rows, the mean over sources and models.
        thresholds: of each source, the margin from which a preference of these rows was taken for an error.
        dropped, flipped: numbers of preferences that were dropped and flipped, compared with the rows as given.
        runs: ids of the runs of the models, by the fold that they were trained without; those of a fold are neighbours.

    >>> Round(0, 0.75, {}, 0, 0, ("a", "b")).held_out
    0.75
    """

    cleaned: int
    held_out: float
    thresholds: Mapping[str, float]
    dropped: int
    flipped: int
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Changes:
    """What a cleaning changes in the rows as given.

    Attributes:
        thresholds: see `Round`.
        dropped, flipped: see `Round`.
    """

    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    dropped: int = 0
    flipped: int = 0


@dataclass(frozen=True)
class Cleaning:
    """Cleans the sources of a recipe.

    Attributes:
        recipe: of the models, with all sources.
        files: of the rows.
        models: the number of models that are trained without each fold; the mean of their scores decides.
        rounds: the most cleanings.
        drop: the margin against a preference from which it is dropped; None: the threshold of confident learning.
        flip: the margin from which it is flipped instead; None: none is.
        gain: by how much the accuracy on held-out rows must rise for another round.
        parent: id of the run that the models' runs belong to.
    """

    recipe: Recipe
    files: FoldFiles
    models: int
    rounds: int
    drop: float | None
    flip: float | None
    gain: float
    parent: str

    def run(self) -> tuple[list[Round], Round]:
        """Clean until held-out rows are ranked no better, or for all rounds.

        Every model is a run of its own. What is finished is not repeated when it is called again.

        Returns:
            All rounds, and the one whose rows are the result.

        Raises:
            BaseRewardError: rows cannot be read, or a training failed.
        """
        for name in self.files.sources:
            originals = [self.files.original(name, fold) for fold in range(self.files.folds)]
            self.files.write_trained(name, originals, cleaned=0)
        best = self._measured(0, Changes())
        done = [best]
        for cleaned in range(1, self.rounds + 1):
            changes = self._clean(cleaned)
            done.append(self._measured(cleaned, changes))
            if done[-1].held_out <= best.held_out + self.gain:
                announce(f"cleaning stops after round {cleaned}: held-out rows are ranked no better")
                break
            best = done[-1]
        return done, best

    def write_result(self, best: Round) -> dict[str, int]:
        """Write the rows of a round, and the decisions of all; give the numbers of rows by source."""
        numbers: dict[str, int] = {}
        for name in self.files.sources:
            files = self._corrected(name, best.cleaned)
            groups = (group for file in files for group in read_groups(file))
            numbers[name] = self.files.write_groups(self.files.result(name), groups)
        return numbers

    def write_decisions(self, target: Path, rounds: Sequence[Round], best: Round) -> None:
        """Write every decision as a line with `round`, `source`, `id`, `winner`, `loser`, `margin`, `decision`, and
        `applied`: whether the result has it."""
        with atomic_file(target) as file:
            for measured in rounds[1:]:
                facts = {"round": measured.cleaned, "applied": measured.cleaned == best.cleaned}
                for name, threshold in measured.thresholds.items():
                    rule = ErrorRule(threshold, self.flip)
                    for _, decided in self._decisions(name, measured.cleaned, range(self.files.folds), rule):
                        for item in decided:
                            write_line(file, {**facts, "source": name, **item.as_row()})

    def _measured(self, cleaned: int, changes: Changes) -> Round:
        """Train the models of a round, and score the rows of their folds and the held-out rows."""
        runs: list[str] = []
        accuracies: list[float] = []
        for fold in range(self.files.folds):
            for model in range(self.models):
                runs.append(self._train(cleaned, fold, model))
                accuracies.append(self._score(runs[-1], cleaned, fold, model))
        held_out = sum(accuracies) / len(accuracies)
        announce(
            f"round {cleaned}: held-out accuracy {held_out:.4f}, {changes.dropped} preferences dropped and "
            f"{changes.flipped} flipped"
        )
        return Round(cleaned, held_out, changes.thresholds, changes.dropped, changes.flipped, tuple(runs))

    def _train(self, cleaned: int, fold: int, model: int) -> str:
        """Train a model without a fold; give the id of its run. The models of a fold differ in all seeds."""
        sources = dict(self.recipe.data.sources)
        for name in self.files.sources:
            rows = shown_path(self.files.trained(name, cleaned=cleaned, without=fold))
            sources[name] = file_source(rows, held_out=shown_path(self.files.held_out(name)))
        seeds = Seeds(**{name: seed + model for name, seed in dataclasses.asdict(self.recipe.seeds).items()})
        data = dataclasses.replace(self.recipe.data, sources=sources)
        recipe = dataclasses.replace(self.recipe, data=data, seeds=seeds)
        title = f"round {cleaned}, without fold {fold}"
        axes = {"round": str(cleaned), "without": str(fold)}
        if self.models > 1:
            title, axes["model"] = f"{title}, model {model}", str(model)
        task = {"recipe": recipe_yaml(recipe), "title": title, "axes": axes, "label": title}
        return str(train_task(json.dumps(task), parent=self.parent)["run_id"])

    def _score(self, run: str, cleaned: int, fold: int, model: int) -> float:
        """Score the fold and the held-out rows with a model; give its accuracy on the latter."""
        files: list[tuple[Path, Path]] = []
        for name in self.files.sources:
            # After the last cleaning nothing is decided by the scores of the fold.
            scored = [self.files.original(name, fold)] if cleaned < self.rounds else []
            for rows in (*scored, self.files.held_out(name)):
                files.append((rows, self.files.scores(rows, cleaned=cleaned, fold=fold, model=model)))
        if not all(scores.is_file() for _, scores in files):
            with open_scorer(run) as scorer:
                for rows, target in files:
                    with atomic_file(target) as output:
                        for scores in track(scores_of(read_groups(rows), scorer=scorer), f"scoring {rows.name}"):
                            write_line(output, {"scores": scores})
        accuracies: list[float] = []
        for name in self.files.sources:
            rows = self.files.held_out(name)
            target = self.files.scores(rows, cleaned=cleaned, fold=fold, model=model)
            accuracies.append(_accuracy(_scored(rows, [target])))
        return sum(accuracies) / len(accuracies)

    def _clean(self, cleaned: int) -> Changes:
        """Write the rows that the models of the round before leave, and what the next models are trained on."""
        thresholds: dict[str, float] = {}
        counts: Counter[LabelDecision] = Counter()
        for name in self.files.sources:
            thresholds[name] = self._threshold(name, cleaned)
            rule = ErrorRule(thresholds[name], self.flip)
            corrected = self._corrected(name, cleaned)
            for fold, file in enumerate(corrected):
                self.files.write_groups(file, self._left(name, cleaned, fold, rule, counts))
            self.files.write_trained(name, corrected, cleaned=cleaned)
        return Changes(thresholds, counts["drop"], counts["flip"])

    def _threshold(self, name: str, cleaned: int) -> float:
        """The margin from which a preference of a source is an error, from all folds."""
        if self.drop is not None:
            return self.drop
        margins: list[float] = []
        for group, scores in self._scored_folds(name, cleaned, range(self.files.folds)):
            if scores is not None:
                margins += [margin for _, margin in margins_of(group, scores)]
        return confident_threshold(margins)

    def _left(
        self, name: str, cleaned: int, fold: int, rule: ErrorRule, counts: Counter[LabelDecision]
    ) -> Iterator[Group]:
        """The groups of a fold with the preferences that are left, and their decisions counted."""
        for group, decided in self._decisions(name, cleaned, [fold], rule):
            counts.update(item.decision for item in decided)
            if group is not None:
                yield group

    def _decisions(
        self, name: str, cleaned: int, folds: Iterable[int], rule: ErrorRule
    ) -> Iterator[tuple[Group | None, list[Decided]]]:
        """What is left of each group as given, and the decisions about its preferences."""
        for group, scores in self._scored_folds(name, cleaned, folds):
            # A group that the model cannot read stays as it is.
            yield (group, []) if scores is None else correct(group, scores, rule)

    def _scored_folds(
        self, name: str, cleaned: int, folds: Iterable[int]
    ) -> Iterator[tuple[Group, list[float] | None]]:
        """Each group as given, and its scores by the models of the round before."""
        for fold in folds:
            rows = self.files.original(name, fold)
            scores: list[Path] = []
            for model in range(self.models):
                scores.append(self.files.scores(rows, cleaned=cleaned - 1, fold=fold, model=model))
            yield from _scored(rows, scores)

    def _corrected(self, name: str, cleaned: int) -> list[Path]:
        """The rows of each fold after a number of cleanings."""
        files: list[Path] = []
        for fold in range(self.files.folds):
            original = self.files.original(name, fold)
            files.append(original.with_suffix(f".round{cleaned}.jsonl") if cleaned else original)
        return files


def _scored(rows: Path, files: Sequence[Path]) -> Iterator[tuple[Group, list[float] | None]]:
    """The groups of a file with the means of their scores over models; None for one that a model cannot read."""
    of_models: list[list[list[float] | None]] = []
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines()
        of_models.append([json.loads(line)["scores"] for line in lines])
    for group, *by_model in zip(read_groups(rows), *of_models, strict=True):
        known = [scores for scores in by_model if scores is not None]
        if len(known) < len(by_model):
            yield group, None
        else:
            yield group, [sum(scores) / len(scores) for scores in zip(*known, strict=True)]


def _accuracy(scored: Iterator[tuple[Group, list[float] | None]]) -> float:
    """The share of right preferences, the mean over groups.

    Raises:
        DataError: there is no group with a preference that is no tie and with scores.
    """
    shares: list[float] = []
    for group, scores in scored:
        margins = [] if scores is None else [margin for _, margin in margins_of(group, scores)]
        if margins:
            shares.append(sum(margin > 0 for margin in margins) / len(margins))
    if not shares:
        raise DataError(
            "no held-out row has a preference that the model can read, and these rows decide when cleaning stops. Set "
            "`val` of the sources to rows with preferences"
        )
    return sum(shares) / len(shares)


def settings_of(measured: Round) -> dict[str, Any]:
    """A round as JSON values.

    >>> settings_of(Round(0, 0.75, {}, 0, 0, ("a",)))["runs"]
    ['a']
    """
    return {**dataclasses.asdict(measured), "runs": list(measured.runs)}
