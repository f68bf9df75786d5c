"""What a source is like: sizes, pictures, lengths and their bias, repeated responses, languages, doubtful labels."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binomtest

from basereward.data.curation.languages import language
from basereward.data.curation.words import prompt_text
from basereward.data.schema.group import Group, Preference
from basereward.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MARGINS = (-math.inf, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, math.inf)
_MISSING = "missing"


@dataclass(frozen=True, slots=True)
class CountShare:
    """`count` of `total`, and the 95 % interval of Wilson's score; of a total of 0 nothing is known: (0, 1)."""

    count: int
    total: int
    low: float
    high: float

    @classmethod
    def of(cls, count: int, total: int) -> CountShare:
        """A share with its interval.

        >>> share = CountShare.of(8, 10)
        >>> round(share.low, 3), round(share.high, 3)
        (0.49, 0.943)
        """
        if total == 0:
            return cls(0, 0, 0.0, 1.0)
        interval = binomtest(count, total).proportion_ci(method="wilson")
        return cls(count, total, float(interval.low), float(interval.high))

    @property
    def value(self) -> float:
        """0 to 1; NaN of a total of 0."""
        return self.count / self.total if self.total else math.nan


@dataclass(frozen=True, slots=True)
class LabelNoise:
    """How far a trained model disagrees with the decided preferences of a source.

    `disagrees`: the share with a margin (score of the winner less that of the loser) below 0; `strongly`: below
    `-threshold`. `bins` holds (low, high, number): margins from low to below high.
    """

    threshold: float
    disagrees: CountShare
    strongly: CountShare
    bins: tuple[tuple[float, float, int], ...]


@dataclass(frozen=True, slots=True)
class SourceAudit:
    """A source in numbers. Lengths are in characters, at the quantiles `QUANTILES`; NaN where there is nothing.

    `images` counts groups by their number of images. `longer_wins` is over the decided preferences between responses
    of different length, of which `equally_long` have none. `repeated` is the share of groups in which two responses are
    the same text. `languages` counts prompts, the most frequent first. `noise` is there when scores were given.
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
        """The share of groups with an image."""
        return CountShare.of(self.num_groups - self.images.get(0, 0), self.num_groups)


def audit(
    groups: Iterable[Group],
    *,
    source: str,
    scores: Iterable[Sequence[float] | None] | None = None,
    threshold: float = 2.0,
    language_every: int = 1,
) -> SourceAudit:
    """Reads the groups once.

    Args:
        scores: of each group in turn the scores that a trained model gives its responses; None where it gave none.
        threshold: the margin that makes a disagreement a strong one, in units of the model's scores.
        language_every: the language is told for every so many-th prompt, which takes about 0.1 ms each.

    Raises:
        DataError: there are more or fewer scores than groups, or than responses, or one is not finite.
    """
    counts = _Counts(language_every=language_every)
    margins = array("d")
    for group, own in _paired(groups, scores, source=source):
        counts.add(group)
        margins.extend(_margins(group, own) if own is not None else ())
    return counts.audit(source, noise=None if scores is None else _noise(np.asarray(margins), threshold=threshold))


def _paired(
    groups: Iterable[Group], scores: Iterable[Sequence[float] | None] | None, *, source: str
) -> Iterator[tuple[Group, Sequence[float] | None]]:
    if scores is None:
        yield from ((group, None) for group in groups)
        return
    for group, own in zip_longest(groups, scores, fillvalue=_MISSING):
        if isinstance(group, str) or isinstance(own, str):
            raise DataError(f"source '{source}': there are not as many scores as groups")
        yield group, own


class _Counts:
    """What is counted along the way; lengths take 4 bytes each."""

    def __init__(self, *, language_every: int) -> None:
        self._language_every = language_every
        self._num_groups = self._num_responses = self._num_decided = self._num_ties = 0
        self._longer = self._equally_long = self._repeated = 0
        self._images: Counter[int] = Counter()
        self._languages: Counter[str] = Counter()
        self._prompt_chars, self._winner_chars, self._loser_chars = array("I"), array("I"), array("I")

    def add(self, group: Group) -> None:
        text = prompt_text(group)
        if self._num_groups % self._language_every == 0:
            self._languages[language(text)] += 1
        self._num_groups += 1
        self._num_responses += len(group.responses)
        self._images[len(group.images)] += 1
        self._prompt_chars.append(len(text))
        self._repeated += len(set(group.responses)) < len(group.responses)
        decided = _decided(group)
        self._num_decided += len(decided)
        self._num_ties += len(group.preferences) - len(decided)
        for preference in decided:
            winner, loser = len(group.responses[preference.winner]), len(group.responses[preference.loser])
            self._winner_chars.append(winner)
            self._loser_chars.append(loser)
            self._longer += winner > loser
            self._equally_long += winner == loser

    def audit(self, source: str, *, noise: LabelNoise | None) -> SourceAudit:
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
            languages=dict(sorted(self._languages.items(), key=lambda item: (-item[1], item[0]))),
            noise=noise,
        )


def _decided(group: Group) -> list[Preference]:
    return [preference for preference in group.preferences if not preference.tie]


def _margins(group: Group, scores: Sequence[float]) -> list[float]:
    if len(scores) != len(group.responses) or not all(math.isfinite(score) for score in scores):
        raise DataError(
            f"group '{group.id}' of source '{group.source}': its {len(group.responses)} responses have the scores "
            f"{list(scores)}; one finite number for each is needed"
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
