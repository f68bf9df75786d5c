"""The scores of held-out groups, kept with a run so that a later question needs no model."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from basereward.data.batching.tree_batch import TreeBatch
from basereward.errors import RunError
from basereward.io.files import json_text, write_atomic
from basereward.runs.tracking.journal import warn_once


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """One held-out group: its responses' scores and lengths in tokens, and its preferences as (winner, loser, tie)."""

    id: str
    source: str
    scores: list[float]
    lengths: list[int]
    preferences: list[tuple[int, int, bool]]

    @property
    def margins(self) -> list[float]:
        """Score of the winner less that of the loser, of every preference that is no tie."""
        return [self.scores[w] - self.scores[loser] for w, loser, tie in self.preferences if not tie]


def scored_groups(batch: TreeBatch, scores: Tensor) -> list[ScoredGroup]:
    """The groups of a batch with their responses' scores `(K,)`."""
    values, lengths = scores.tolist(), batch.lengths.tolist()
    pairs = list(zip(batch.winner.tolist(), batch.loser.tolist(), batch.tie.tolist(), strict=True))
    of_group: list[list[tuple[int, int, bool]]] = [[] for _ in batch.ids]
    for pair, group in zip(pairs, batch.preference_group.tolist(), strict=True):
        of_group[group].append(pair)
    found, first = [], 0
    for index, (name, source) in enumerate(zip(batch.ids, batch.sources, strict=True)):
        last = first + batch.responses[index]
        mine = [(winner - first, loser - first, tie) for winner, loser, tie in of_group[index]]
        found.append(ScoredGroup(name, source, values[first:last], lengths[first:last], mine))
        first = last
    return found


def write_scores(path: Path, groups: Iterable[ScoredGroup]) -> None:
    """Writes groups as JSON Lines; the file appears whole or not at all."""
    write_atomic(path, "".join(json_text(asdict(group)) + "\n" for group in groups))


def read_scores(path: Path) -> list[ScoredGroup]:
    """Reads what `write_scores` wrote.

    Raises:
        RunError: the file is damaged.
    """
    found = []
    try:
        for line in path.read_text().splitlines():
            group = ScoredGroup(**json.loads(line))
            # JSON has no NaN: a score that is none is written as null.
            scores = [math.nan if score is None else score for score in group.scores]
            preferences = [(winner, loser, tie) for winner, loser, tie in group.preferences]
            found.append(replace(group, scores=scores, preferences=preferences))
    except (ValueError, TypeError) as error:
        raise RunError(f"the scores in '{path}' are damaged: {error}") from error
    return found


def known_scores(path: Path) -> list[ScoredGroup]:
    """The scores that a run has; none where there is no file, or, with a warning, a damaged one."""
    if not path.is_file():
        return []
    try:
        return read_scores(path)
    except RunError as error:
        warn_once(f"{error}. They are left out.")
        return []


def spread(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Mean and standard deviation of all responses' scores, with which reinforcement learning can bring them to
    one scale."""
    scores = [score for group in groups for score in group.scores]
    return {"mean": statistics.fmean(scores), "std": statistics.pstdev(scores)} if scores else {}
