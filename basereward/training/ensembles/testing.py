"""An ensemble tested as a run is: on the test groups of its members, by its own scores of them."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import torch

from basereward.data.encoding.encoder import EncodedGroup
from basereward.data.schema.group import Group, RejectedRow
from basereward.data.schema.rejections import RowRejected, check_limit, summary, write_lost
from basereward.data.schema.validation import check_usable
from basereward.data.sources import Source
from basereward.errors import DataError, ModelError
from basereward.inference.ensemble import Encoded, Member
from basereward.inference.group_scores import ScoresGroups
from basereward.inference.score_file import load
from basereward.metrics.collection import PreferenceMetrics, mean_accuracy
from basereward.recipe import Recipe, make, recipe_from_yaml
from basereward.runs.run_folder import RunFolder
from basereward.runs.score_files import ScoredGroup, write_scores

logger = logging.getLogger(__name__)

WINDOW = 64  # groups that are encoded and scored before the next are read, since their pictures fill the memory


def run_test(run: RunFolder, members: Sequence[Member]) -> dict[str, Any]:
    """Scores the test groups of all sources that a member was trained on, and keeps them as `scores/test.jsonl`; those
    that cannot be scored are listed in `lost.jsonl`.

    Returns:
        `metrics` as a run's test has them, `pair_s`, the seconds of a pair's scores, and `skipped` groups by source and
        reason.

    Raises:
        ModelError: two members mean different rows by the same source's name; the message names both.
        TooManyRowsLost: of all test rows a larger share is lost by the ensemble, and was not lost by its members, than
            the `data.max_lost` of any member allows; or every row of a source is.
    """
    scorer: ScoresGroups = load(run.model)
    recipes = [recipe_from_yaml(member.folder / "recipe.yaml") for member in members]
    sources = _sources(members, recipes)
    lost = [row for source in sources.values() for row in source.rejected("test")]
    rows = Counter(row.source for row in lost)
    scored: list[ScoredGroup] = []
    seconds, tokens = 0.0, 0
    groups = chain.from_iterable(source.groups("test") for source in sources.values())
    while window := list(islice(groups, WINDOW)):
        rows.update(group.source for group in window)
        encoded = [(group, found) for group in window if (found := _encoded(scorer, group, lost)) is not None]
        began = time.perf_counter()
        scores = list(chain.from_iterable(scorer.score_encoded([found for _, found in encoded])))
        seconds += time.perf_counter() - began
        scored += [_scored(*each, own) for each, own in zip(encoded, scores, strict=True)]
        tokens += sum(_tokens(found) for _, found in encoded)
    if lost:
        write_lost(run.lost, lost)
        told = (len(lost), rows.total(), summary(lost), run.lost)
        logger.warning("%d of %d test rows are lost: %s; listed in %s", *told)
    limit = max(recipe.data.max_lost for recipe in recipes)
    check_limit(_new(lost, members), rows=rows, max_lost=limit, listed_in=run.lost)
    write_scores(run.scores / "test.jsonl", scored)
    pairs = sum(len(group.preferences) for group in scored)
    metrics = _measured(scored)
    if pairs:
        metrics["test/tokens_per_pair"] = tokens / pairs
    return {"metrics": metrics, "pair_s": seconds / pairs if pairs else None, "skipped": summary(lost)}


def _encoded(scorer: ScoresGroups, group: Group, lost: list[RejectedRow]) -> Any:
    """The group as the ensemble takes it; None where it cannot, which is added to the lost rows."""
    try:
        check_usable(group)
        return scorer.encode(group)  # an EncodedGroup or an Encoded
    except DataError as error:
        lost.append(RejectedRow(group.source, "test", group.id, _reason(error), str(error)))
        return None


def _new(lost: Sequence[RejectedRow], members: Sequence[Member]) -> list[RejectedRow]:
    """The lost rows, of which those that a member's own run lost are no fault: they were held against its limit when it
    was trained, and of the few rows of a test they may be a larger share."""
    known: set[tuple[str, str]] = set()
    for member in members:
        file = RunFolder(member.folder.parent).lost
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
            row = json.loads(line)
            if row["split"] == "test":
                known.add((row["source"], row["id"]))
    return [replace(row, fault=row.fault and (row.source, row.id) not in known) for row in lost]


def _sources(members: Sequence[Member], recipes: Sequence[Recipe]) -> dict[str, Source]:
    """Every source of any member, by name."""
    known: dict[str, tuple[str, Any]] = {}
    for member, recipe in zip(members, recipes, strict=True):
        for name, node in recipe.data.sources.items():
            first, before = known.setdefault(name, (member.name, node))
            if node != before:
                raise ModelError(
                    f"members '{first}' and '{member.name}' were trained on different rows that both call '{name}': "
                    "they have no test in common. Give the sources different names, or combine other members"
                )
    return {name: make(node, "sources", name) for name, (_, node) in known.items()}


def _reason(error: BaseException | None) -> str:
    """What a group that cannot be encoded is counted under."""
    while error is not None and not isinstance(error, RowRejected):
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
