"""Computes statistics of a source: sizes, images, lengths, length bias, repeated responses, languages, label noise."""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import binomtest

from basereward.cluster.shards import FEW_ROWS, ShardedRows
from basereward.data.curation.languages import language
from basereward.data.curation.words import prompt_text
from basereward.data.encoding.content_hash import rows_hash
from basereward.data.schema.group import Group, Preference
from basereward.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MARGINS = (-math.inf, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, math.inf)
"""The edges of the bins of `LabelNoise`. A margin of 2 is a probability of 0.88 for the winner, 4 is 0.98."""
# Fills the shorter one of two sequences. None cannot, because it stands for a group without scores.
_MISSING = "missing"


@dataclass(frozen=True, slots=True)
class CountShare:
    """A fraction (`count` of `total`), and its 95 % Wilson score interval; (0, 1) if `total` is 0.

    >>> CountShare.of(8, 10).value
    0.8
    """

    count: int
    total: int
    low: float
    high: float

    @classmethod
    def of(cls, count: int, total: int) -> CountShare:
        """Compute the interval of a fraction.

        >>> share = CountShare.of(8, 10)
        >>> round(share.low, 3), round(share.high, 3)
        (0.49, 0.943)
        """
        # SciPy refuses a total of 0.
        if total == 0:
            return cls(0, 0, 0.0, 1.0)
        interval = binomtest(count, total).proportion_ci(method="wilson")
        return cls(count, total, float(interval.low), float(interval.high))

    @property
    def value(self) -> float:
        """The fraction, 0 to 1; NaN if `total` is 0."""
        return self.count / self.total if self.total else math.nan


@dataclass(frozen=True, slots=True)
class LabelNoise:
    """How often a trained model disagrees with the decided preferences of a source.

    A margin is the model's score of the winner minus its score of the loser.

    Attributes:
        threshold: the margin from which a disagreement counts as strong, in units of the model's scores.
        disagrees: the fraction of preferences with a margin below 0.
        strongly: the fraction with a margin below `-threshold`.
        bins: the number of margins in each interval, as (low, high, number); `low` is included, `high` is not.

    >>> noise = LabelNoise(2.0, CountShare.of(1, 4), CountShare.of(0, 4), ((-2.0, 0.0, 1), (0.0, 2.0, 3)))
    >>> noise.disagrees.value
    0.25
    """

    threshold: float
    disagrees: CountShare
    strongly: CountShare
    bins: tuple[tuple[float, float, int], ...]


@dataclass(frozen=True, slots=True)
class SourceAudit:
    """Statistics of a source.

    Attributes:
        source: the name of the source.
        num_groups, num_responses: the number of groups, and of all their responses.
        num_decided, num_ties: the number of preferences with a winner, and of ties.
        images: the number of groups by their number of images.
        longer_wins: the fraction of decided preferences whose winner is longer, among those with different lengths.
        equally_long: the number of decided preferences between responses of equal length.
        prompt_chars, winner_chars, loser_chars: quantiles (`QUANTILES`) of lengths in characters; NaN without data.
        repeated: the fraction of groups in which two responses are the same text.
        languages: the number of prompts by language, the most frequent first.
        noise: the disagreement of a trained model; None without scores.

    >>> audit([], source="empty").num_groups
    0
    """

    source: str
    num_groups: int
    num_responses: int
    num_decided: int
    num_ties: int
    images: dict[int, int]
    longer_wins: CountShare
    equally_long: int
    prompt_chars: tuple[float, ...]
    winner_chars: tuple[float, ...]
    loser_chars: tuple[float, ...]
    repeated: CountShare
    languages: dict[str, int]
    noise: LabelNoise | None = None

    @property
    def with_images(self) -> CountShare:
        """The fraction of groups with an image."""
        return CountShare.of(self.num_groups - self.images.get(0, 0), self.num_groups)


def audit(
    groups: Iterable[Group],
    *,
    source: str,
    scores: Iterable[Sequence[float] | None] | None = None,
    threshold: float = 2.0,
    language_every: int = 1,
) -> SourceAudit:
    """Compute the statistics of a source in one pass over its groups.

    Args:
        groups: the groups.
        source: the name of the source.
        scores: for each group, the scores that a trained model gives its responses, or None if the group has no scores.
        threshold: the margin from which a disagreement counts as strong, in units of the model's scores.
        language_every: identify the language of every n-th prompt only; each takes about 0.1 ms.

    Raises:
        DataError: the number of scores differs from that of the groups or responses, or a score is not finite.

    >>> from basereward.data.schema.group import Part, Turn
    >>> prompt = (Turn("user", (Part("Which number is larger, 3 or 4?"),)),)
    >>> group = Group("a", "s", prompt, ("It is 4.", "3"), (Preference(0, 1),))
    >>> statistics = audit([group], source="s", scores=[[0.5, 2.0]])
    >>> statistics.num_decided, statistics.longer_wins.value, statistics.noise.disagrees.value
    (1, 1.0, 1.0)
    """
    counts = _Counts(language_every=language_every)
    margins = array("d")
    for group, group_scores in _paired(groups, scores, source=source):
        counts.add(group)
        if group_scores is not None:
            margins.extend(_margins(group, group_scores))
    return counts.audit(source, noise=None if scores is None else _noise(np.asarray(margins), threshold=threshold))


def audit_sharded(
    groups: Sequence[Group],
    rows: ShardedRows,
    *,
    source: str,
    scores: Iterable[Sequence[float] | None] | None = None,
    threshold: float = 2.0,
) -> SourceAudit:
    """As `audit`, on a cluster. The margins of the scores are computed here.

    Args:
        groups: the groups, read by workers.
        rows: the cluster.
        source, scores, threshold: as in `audit`.
    """
    counts = _Counts(language_every=1)
    for shard in rows.run(_CountingWork(groups), num_rows=len(groups), what=f"auditing {source}", few=FEW_ROWS):
        counts.merge(json.loads(shard.file.read_bytes()))
    margins = array("d")
    if scores is not None:
        for group, group_scores in _paired(groups, scores, source=source):
            if group_scores is not None:
                margins.extend(_margins(group, group_scores))
    return counts.audit(source, noise=None if scores is None else _noise(np.asarray(margins), threshold=threshold))


@dataclass(frozen=True)
class _CountingWork:
    """Counts shards of groups; itself the worker."""

    groups: Sequence[Group]

    def __call__(self) -> _CountingWork:
        return self

    def key(self, rows: range) -> str:
        """As in `ShardWorker`."""
        return rows_hash(self.groups, rows, [("statistics", "1")])

    def write(self, rows: range, target: Path) -> dict[str, Any]:
        """As in `ShardWorker`."""
        counts = _Counts(language_every=1)
        for number in rows:
            counts.add(self.groups[number])
        target.write_text(json.dumps(counts.state()))
        return {}


def _paired(
    groups: Iterable[Group], scores: Iterable[Sequence[float] | None] | None, *, source: str
) -> Iterator[tuple[Group, Sequence[float] | None]]:
    """Yield each group with its scores.

    Raises:
        DataError: the number of scores differs from that of the groups.
    """
    if scores is None:
        yield from ((group, None) for group in groups)
        return
    # `zip` with `strict` would raise a ValueError without the name of the source.
    for group, group_scores in zip_longest(groups, scores, fillvalue=_MISSING):
        if isinstance(group, str) or isinstance(group_scores, str):
            what = "more scores than groups" if isinstance(group, str) else "fewer scores than groups"
            raise DataError(f"source '{source}' has {what}; give one entry for each group, None if it has no scores")
        yield group, group_scores


class _Counts:
    """Counts that are updated group by group. Lengths are kept in arrays of 4 bytes each, for millions of groups."""

    def __init__(self, *, language_every: int) -> None:
        self._language_every = language_every
        self._num_groups = self._num_responses = self._num_decided = self._num_ties = 0
        self._longer = self._equally_long = self._repeated = 0
        self._images: Counter[int] = Counter()
        self._languages: Counter[str] = Counter()
        self._prompt_chars, self._winner_chars, self._loser_chars = array("I"), array("I"), array("I")

    def add(self, group: Group) -> None:
        """Count one group."""
        text = prompt_text(group)
        if self._num_groups % self._language_every == 0:
            self._languages[language(text)] += 1
        self._num_groups += 1
        self._num_responses += len(group.responses)
        self._images[len(group.all_images)] += 1
        self._prompt_chars.append(len(text))
        # Equal responses give equal scores, so a preference between them cannot be learned.
        self._repeated += _has_equal_responses(group)
        decided = _decided(group)
        self._num_decided += len(decided)
        self._num_ties += len(group.preferences) - len(decided)
        # Ties have no winner, so only decided preferences can show a length bias.
        for preference in decided:
            winner, loser = len(group.responses[preference.winner]), len(group.responses[preference.loser])
            self._winner_chars.append(winner)
            self._loser_chars.append(loser)
            self._longer += winner > loser
            self._equally_long += winner == loser

    def state(self) -> dict[str, Any]:
        """All counts as JSON has them, for `merge`."""
        state: dict[str, Any] = {}
        for name, value in vars(self).items():
            state[name] = list(value) if isinstance(value, array) else value
        return state

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add the counts of the groups that follow."""
        for name, value in state.items():
            own = getattr(self, name)
            if isinstance(own, array):
                own.extend(value)
            elif isinstance(own, Counter):
                # JSON has texts as keys; of these counters one has numbers.
                own.update({int(key) if name == "_images" else key: count for key, count in value.items()})
            elif name != "_language_every":
                setattr(self, name, own + value)

    def audit(self, source: str, *, noise: LabelNoise | None) -> SourceAudit:
        """Compute the statistics of all groups so far."""
        return SourceAudit(
            source=source,
            num_groups=self._num_groups,
            num_responses=self._num_responses,
            num_decided=self._num_decided,
            num_ties=self._num_ties,
            images=dict(sorted(self._images.items())),
            longer_wins=CountShare.of(self._longer, self._num_decided - self._equally_long),
            equally_long=self._equally_long,
            prompt_chars=_quantiles(self._prompt_chars),
            winner_chars=_quantiles(self._winner_chars),
            loser_chars=_quantiles(self._loser_chars),
            repeated=CountShare.of(self._repeated, self._num_groups),
            # By name among equal counts, so that the order does not depend on the order of the rows.
            languages=dict(sorted(self._languages.items(), key=lambda item: (-item[1], item[0]))),
            noise=noise,
        )


def _decided(group: Group) -> list[Preference]:
    return [preference for preference in group.preferences if not preference.tie]


def _margins(group: Group, scores: Sequence[float]) -> list[float]:
    if len(scores) != len(group.responses) or not all(math.isfinite(score) for score in scores):
        raise DataError(
            f"group '{group.id}' of source '{group.source}' has {len(group.responses)} responses and the scores "
            f"{list(scores)}; give one finite number for each response"
        )
    return [scores[preference.winner] - scores[preference.loser] for preference in _decided(group)]


def _noise(margins: NDArray[np.float64], *, threshold: float) -> LabelNoise:
    edges = list(pairwise(MARGINS))
    return LabelNoise(
        threshold=threshold,
        disagrees=CountShare.of(int((margins < 0).sum()), len(margins)),
        strongly=CountShare.of(int((margins < -threshold).sum()), len(margins)),
        bins=tuple((low, high, int(((margins >= low) & (margins < high)).sum())) for low, high in edges),
    )


def _quantiles(lengths: array[int]) -> tuple[float, ...]:
    if not lengths:
        return (math.nan,) * len(QUANTILES)
    return tuple(float(value) for value in np.quantile(np.asarray(lengths), QUANTILES))


def _has_equal_responses(group: Group) -> bool:
    """Whether two responses have the same text and equal images."""
    if len(set(group.responses)) == len(group.responses):
        return False
    keys = [group.response_key(index) for index in range(len(group.responses))]
    # Compared one with another, because decoded images have no hash.
    return any(key in keys[:index] for index, key in enumerate(keys))
