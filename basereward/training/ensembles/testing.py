"""Tests an ensemble as a run is tested: it scores the test groups of its members."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

import torch

from basereward.data.encoding.encoder import EncodedGroup
from basereward.data.schema.group import Group, RejectedRow
from basereward.data.schema.rejections import RowRejected, check_limit, summary, write_rejections
from basereward.data.schema.validation import check_usable
from basereward.data.sources import Source
from basereward.errors import DataError, ModelError
from basereward.inference.ensemble import Encoded, Member
from basereward.inference.group_scores import ScoresEncodedGroups
from basereward.inference.load_model import load
from basereward.io.progress import phase, track
from basereward.metrics.collection import PreferenceMetrics, mean_accuracy
from basereward.recipe import Recipe, make, recipe_from_yaml
from basereward.runs.run_folder import RunFolder
from basereward.runs.score_files import ScoredGroup, write_scores

logger = logging.getLogger(__name__)

WINDOW = 64
"""Groups that are encoded and scored before the next ones are read, because their images fill the memory."""


def run_test(run: RunFolder, members: Sequence[Member]) -> dict[str, Any]:
    """Score the test groups of all sources that a member was trained on.

    Writes the scores to `scores/test.jsonl`, and rejected groups to `lost.jsonl`.

    Args:
        run: folder of the ensemble.
        members: of the ensemble.

    Returns:
        `metrics`, as in the test of a run; `pair_s`, seconds to score a pair; `skipped`, groups by source and reason.

    Raises:
        ModelError: two members have different rows under one name of a source; the message names both.
        TooManyRowsLost: the ensemble rejects more rows than the `data.max_lost` of any member allows, not counting
            rows that the members rejected; or it rejects every row of a source.
    """
    with phase("loading the members"):
        scorer: ScoresEncodedGroups = load(run.model)
    recipes = [recipe_from_yaml(member.folder / "recipe.yaml") for member in members]
    sources = _sources(members, recipes)
    test = _score_test_groups(scorer, sources)
    if test.rejected:
        write_rejections(run.rejections, test.rejected)
        logger.warning(
            "%d of %d test rows are rejected: %s; listed in %s",
            len(test.rejected),
            test.rows.total(),
            summary(test.rejected),
            run.rejections,
        )
    # After the list is written: the error names the file that has the reasons.
    limit = max(recipe.data.max_lost for recipe in recipes)
    check_limit(_excuse_known(test.rejected, members), rows=test.rows, max_lost=limit, listed_in=run.rejections)
    write_scores(run.scores / "test.jsonl", test.scored)
    num_pairs = sum(len(group.preferences) for group in test.scored)
    metrics = _metrics(test.scored)
    if num_pairs:
        metrics["test/tokens_per_pair"] = test.tokens / num_pairs
    pair_s = test.seconds / num_pairs if num_pairs else None
    return {"metrics": metrics, "pair_s": pair_s, "skipped": summary(test.rejected)}


@dataclass
class _Test:
    """Results of a test.

    Attributes:
        rejected: rows that a source or the ensemble cannot use.
        rows: number of rows by source, rejected ones included.
        scored: groups with the scores of the ensemble.
        seconds: of scoring, without reading and encoding.
        tokens: that all members read.
    """

    rejected: list[RejectedRow]
    rows: Counter[str]
    scored: list[ScoredGroup] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0


def _score_test_groups(scorer: ScoresEncodedGroups, sources: Mapping[str, Source]) -> _Test:
    rejected: list[RejectedRow] = []
    for source in sources.values():
        rejected += source.rejected("test")
    test = _Test(rejected, Counter(row.source for row in rejected))
    num_groups = sum(len(source.groups("test")) for source in sources.values())
    all_groups = chain.from_iterable(source.groups("test") for source in sources.values())
    groups = track(all_groups, "testing the ensemble", total=num_groups)
    while window := list(islice(groups, WINDOW)):
        usable: list[Group] = []
        # An EncodedGroup each, or an Encoded of an ensemble.
        encoded_groups: list[Any] = []
        for group in window:
            test.rows[group.source] += 1
            try:
                check_usable(group)
                encoded_groups.append(scorer.encode(group))
                usable.append(group)
            except DataError as error:
                test.rejected.append(RejectedRow(group.source, "test", group.id, _reason(error), str(error)))
        # Encoding is not measured, because a run's `time/test_pair_s` does not measure it either.
        began = time.perf_counter()
        scores = list(chain.from_iterable(scorer.score_encoded(encoded_groups)))
        test.seconds += time.perf_counter() - began
        for group, encoded, group_scores in zip(usable, encoded_groups, scores, strict=True):
            test.scored.append(_scored_group(group, encoded, group_scores))
            test.tokens += _num_tokens(encoded)
    return test


def _excuse_known(rejected: Sequence[RejectedRow], members: Sequence[Member]) -> list[RejectedRow]:
    """Mark rows that the run of a member rejected as no fault of the ensemble.

    They counted against the limit of that run; among the few rows of a test they can be a larger share.
    """
    known: set[tuple[str, str]] = set()
    for member in members:
        file = RunFolder(member.folder.parent).rejections
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
            row = json.loads(line)
            if row["split"] == "test":
                known.add((row["source"], row["id"]))
    return [replace(row, fault=row.fault and (row.source, row.id) not in known) for row in rejected]


def _sources(members: Sequence[Member], recipes: Sequence[Recipe]) -> dict[str, Source]:
    """All sources of all members, by name."""
    # By source: the name of the first member that has it, and its node in the recipe of that member.
    known: dict[str, tuple[str, Any]] = {}
    for member, recipe in zip(members, recipes, strict=True):
        for name, node in recipe.data.sources.items():
            first_member, first_node = known.setdefault(name, (member.name, node))
            if node != first_node:
                raise ModelError(
                    f"members '{first_member}' and '{member.name}' were trained on different rows under the name "
                    f"'{name}', so they have no common test. Give the sources different names, or combine other members"
                )
    return {name: make(node, "sources", name) for name, (_, node) in known.items()}


def _reason(error: BaseException | None) -> str:
    """The reason under which a group that cannot be encoded is counted."""
    # The rejection is somewhere in the chain of causes: scorers and ensembles wrap the errors of their parts.
    while error is not None and not isinstance(error, RowRejected):
        error = error.__cause__
    return "unusable" if error is None else error.reason


def _parts(encoded: EncodedGroup | Encoded) -> list[EncodedGroup]:
    """The group as each backbone that scores it reads it."""
    if isinstance(encoded, EncodedGroup):
        return [encoded]
    return [group for group in encoded.groups if group is not None]


def _num_tokens(encoded: EncodedGroup | Encoded) -> int:
    """Tokens that all backbones read; each prefix counts once."""
    return sum(len(part.prefix) + sum(map(len, part.branches)) for part in _parts(encoded))


def _scored_group(group: Group, encoded: EncodedGroup | Encoded, scores: list[float]) -> ScoredGroup:
    """The group with its scores; lengths are in tokens of the first backbone."""
    preferences = [(p.winner, p.loser, p.tie) for p in group.preferences]
    return ScoredGroup(group.id, group.source, scores, _parts(encoded)[0].response_lengths, preferences)


def _metrics(scored: Sequence[ScoredGroup]) -> dict[str, float]:
    """The metrics that the test of a run logs."""
    metrics_of: dict[str, PreferenceMetrics] = {}
    for group in scored:
        if group.source not in metrics_of:
            metrics_of[group.source] = PreferenceMetrics()
        # A group without preferences has no margin; its source still gets metrics, as in the test of a run.
        if group.preferences:
            _update(metrics_of[group.source], group)
    values: dict[str, float] = {}
    values_by_source = []
    for source, source_metrics in metrics_of.items():
        values_by_source.append(source_metrics.compute())
        values |= {f"test/{source}/{name}": value for name, value in values_by_source[-1].items()}
    return values | {"test/pair_accuracy": mean_accuracy(values_by_source)}


def _update(metrics: PreferenceMetrics, group: ScoredGroup) -> None:
    scores, lengths = torch.tensor(group.scores), torch.tensor(group.lengths)
    winner, loser, tie = (torch.tensor(column) for column in zip(*group.preferences, strict=True))
    metrics.update(
        scores[winner] - scores[loser], winner_lengths=lengths[winner], loser_lengths=lengths[loser], ties=tie
    )
