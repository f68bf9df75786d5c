"""An ensemble tested as a run is: on the test groups of its members, by its own scores of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch

from basereward.data.encoding import EncodedGroup
from basereward.data.group import Group
from basereward.data.screening import RowLost
from basereward.data.sources import Source
from basereward.errors import DataError, ModelError
from basereward.metrics.collection import PreferenceMetrics, mean_accuracy
from basereward.model.ensemble import Encoded, Member
from basereward.recipe import make, recipe_from_yaml
from basereward.train.runs import RunFolder
from basereward.train.score import load
from basereward.train.scores import ScoredGroup, write_scores


def run_test(run: RunFolder, members: Sequence[Member]) -> dict[str, Any]:
    """Scores the test groups of all sources that a member was trained on, and keeps them as `scores/test.jsonl`.

    Returns:
        `metrics` as a run's test has them, `pair_s`, the seconds of a pair's scores, and `skipped` groups by source and
        reason.

    Raises:
        ModelError: two members mean different rows by the same source's name; the message names both.
    """
    scorer, sources = load(run.model), _sources(members)
    skipped = {name: Counter(row.reason for row in source.lost("test")) for name, source in sources.items()}
    groups: list[Group] = []
    encoded: list[Any] = []
    for group in chain.from_iterable(source.groups("test") for source in sources.values()):
        try:
            encoded.append(scorer.encode(group))
        except DataError as error:
            skipped[group.source][_reason(error)] += 1
        else:
            groups.append(group)
    began = time.perf_counter()
    scores = [one for some in scorer.score_encoded(encoded) for one in some]
    seconds = time.perf_counter() - began
    scored = [_scored(*each) for each in zip(groups, encoded, scores, strict=True)]
    write_scores(run.scores / "test.jsonl", scored)
    pairs = sum(len(group.preferences) for group in scored)
    metrics = _measured(scored)
    if pairs:
        metrics["test/tokens_per_pair"] = sum(map(_tokens, encoded)) / pairs
    told = {source: dict(reasons) for source, reasons in skipped.items() if reasons}
    return {"metrics": metrics, "pair_s": seconds / pairs if pairs else None, "skipped": told}


def _sources(members: Sequence[Member]) -> dict[str, Source]:
    """Every source of any member, by name."""
    known: dict[str, tuple[str, Any]] = {}
    for member in members:
        for name, node in recipe_from_yaml(member.folder / "recipe.yaml").data.sources.items():
            first, before = known.setdefault(name, (member.name, node))
            if node != before:
                raise ModelError(
                    f"members '{first}' and '{member.name}' were trained on different rows that both call '{name}': "
                    "they have no test in common. Give the sources different names, or combine other members"
                )
    return {name: make(node, "sources", name) for name, (_, node) in known.items()}


def _reason(error: BaseException | None) -> str:
    """What a group that cannot be encoded is counted under."""
    while error is not None and not isinstance(error, RowLost):
        error = error.__cause__
    return "unusable" if error is None else error.reason


def _parts(encoded: EncodedGroup | Encoded) -> list[EncodedGroup]:
    """A group as every backbone that is asked takes it."""
    if isinstance(encoded, EncodedGroup):
        return [encoded]
    return [group for group in encoded.groups if group is not None]


def _tokens(encoded: EncodedGroup | Encoded) -> int:
    return sum(len(part.prefix) + sum(map(len, part.branches)) for part in _parts(encoded))


def _scored(group: Group, encoded: EncodedGroup | Encoded, scores: list[float]) -> ScoredGroup:
    """Lengths are in tokens of the first backbone."""
    preferences = [(p.winner, p.loser, p.tie) for p in group.preferences]
    return ScoredGroup(group.id, group.source, scores, _parts(encoded)[0].response_lengths, preferences)


def _measured(scored: Sequence[ScoredGroup]) -> dict[str, float]:
    """What a run's test logs, of the same groups."""
    by_source: dict[str, dict[str, float]] = {}
    for source in dict.fromkeys(group.source for group in scored):
        metrics = PreferenceMetrics()
        for group in scored:
            if group.source == source and group.preferences:
                _update(metrics, group)
        by_source[source] = metrics.compute()
    found = {f"test/{source}/{name}": value for source, values in by_source.items() for name, value in values.items()}
    return found | {"test/pair_accuracy": mean_accuracy(by_source.values())}


def _update(metrics: PreferenceMetrics, group: ScoredGroup) -> None:
    scores, lengths = torch.tensor(group.scores), torch.tensor(group.lengths)
    winner, loser, tie = (torch.tensor(column) for column in zip(*group.preferences, strict=True))
    metrics.update(
        scores[winner] - scores[loser], winner_lengths=lengths[winner], loser_lengths=lengths[loser], ties=tie
    )
