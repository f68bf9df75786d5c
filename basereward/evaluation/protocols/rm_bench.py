"""RM-Bench (arXiv 2410.16184): three right and three wrong responses in three styles, compared each with each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, ClassVar, Literal

from basereward.data.images.image_store import ImageStore
from basereward.evaluation.items import Item, JudgedItem
from basereward.evaluation.protocols import Protocol
from basereward.evaluation.protocols._rows import one_of, text, texts
from basereward.evaluation.statistics.measures import Measures, Variant
from basereward.evaluation.statistics.shares import Added, CountedPart, check_kinds, share, weighted

# Concise; detailed in plain text; detailed in Markdown.
STYLES = 3
DOMAINS = ("chat", "code", "math", "safety")
# As the rows name them: safety has two parts.
STORED_DOMAINS = ("chat", "code", "math", "safety-refuse", "safety-response")
StylePairs = tuple[tuple[int, int], ...]
"""(style of the right response, style of the wrong one)"""
ALL: StylePairs = tuple(product(range(STYLES), range(STYLES)))
LEVELS: dict[str, StylePairs] = {
    # The right response has the richer style.
    "easy": tuple((right, wrong) for right, wrong in ALL if right > wrong),
    "normal": tuple((right, wrong) for right, wrong in ALL if right == wrong),
    "hard": tuple((right, wrong) for right, wrong in ALL if right < wrong),
}
OVERALL_AND_LEVELS = {"overall": ALL, **LEVELS}


class RMBench(Protocol):
    """Rows of `prompt`, three `chosen` and three `rejected` responses in the order of their styles, and a `domain`.

    A comparison is right if the right response scores strictly higher. The value of a domain is the share of right
    comparisons among nine per row, which is the mean of easy, normal and hard. The variant `domain_mean` weights the
    four domains equally, `row_pooled` the rows; the value of a domain is the same in both. The two parts of safety are
    pooled. `ties` counts comparisons.

    Args:
        domain: of all rows, for the authors' files of one domain, such as `chat_filtered.json`, whose rows lack it.

    >>> list(RMBench().variants)
    ['domain_mean', 'row_pooled']
    """

    columns: tuple[str, ...] = ("id", "prompt", "chosen", "rejected", "domain")
    missing_column_advice: ClassVar[Mapping[str, str]] = {
        "domain": "The authors' files of one domain lack it. Give total_dataset.json, which has all rows with their "
        f"domains, or name the domain of the file by protocol.domain=, one of {', '.join(STORED_DOMAINS)}."
    }

    def __init__(self, *, domain: Literal["chat", "code", "math", "safety-refuse", "safety-response"] | None = None):
        self._domain = domain
        if domain is not None:
            self.columns = ("id", "prompt", "chosen", "rejected")

    @property
    def variants(self) -> Mapping[str, Variant]:
        """`domain_mean` (published) and `row_pooled`."""
        return {"domain_mean": _domain_mean, "row_pooled": _row_pooled}

    def item(self, row: Mapping[str, Any], *, number: int, images: ImageStore) -> Item:
        """Convert a row to an item.

        Raises:
            RowRejected: there are not three right and three wrong responses, or the domain is unknown.
        """
        domain = one_of({**row, "domain": row.get("domain") or self._domain}, "domain", STORED_DOMAINS)
        return Item(
            row=number,
            id=str(row["id"]),
            prompt=text(row, "prompt"),
            responses=texts(row, "chosen", number=STYLES) + texts(row, "rejected", number=STYLES),
            right=tuple(range(STYLES)),
            wrong=tuple(range(STYLES, 2 * STYLES)),
            prompt_id=str(row["id"]),
            labels={"domain": domain.split("-")[0], "part": domain},
        )


def _domain_mean(judged: Sequence[JudgedItem]) -> Measures:
    by_domain = _by_domain(judged)
    measures: Measures = {}
    for name, pairs in OVERALL_AND_LEVELS.items():
        parts = [CountedPart(1.0, _wins(members, pairs)) for members in by_domain.values()]
        measures[name] = weighted(parts, ties=_ties(judged, pairs))
    return {**measures, **_domain_measures(by_domain)}


def _row_pooled(judged: Sequence[JudgedItem]) -> Measures:
    by_domain = _by_domain(judged)
    measures: Measures = {}
    for name, pairs in OVERALL_AND_LEVELS.items():
        measures[name] = share(_wins(judged, pairs), ties=_ties(judged, pairs))
    return {**measures, **_domain_measures(by_domain)}


def _domain_measures(by_domain: Mapping[str, Sequence[JudgedItem]]) -> Measures:
    return {name: share(_wins(members, ALL), ties=_ties(members, ALL)) for name, members in by_domain.items()}


def _by_domain(judged: Sequence[JudgedItem]) -> dict[str, list[JudgedItem]]:
    check_kinds(judged, ("scores",), what="RM-Bench", why="it compares each of three right with each of three wrong.")
    by_domain: dict[str, list[JudgedItem]] = {name: [] for name in DOMAINS}
    for judged_item in judged:
        by_domain[judged_item.item.labels["domain"]].append(judged_item)
    return by_domain


def _wins(judged: Sequence[JudgedItem], pairs: StylePairs) -> list[Added]:
    added: list[Added] = []
    for judged_item in judged:
        wins = sum(margin > 0 for margin in _margins(judged_item, pairs))
        added.append(Added(judged_item.item.prompt_id, wins, len(pairs)))
    return added


def _ties(judged: Sequence[JudgedItem], pairs: StylePairs) -> int:
    return sum(_margins(judged_item, pairs).count(0.0) for judged_item in judged)


def _margins(judged_item: JudgedItem, pairs: StylePairs) -> list[float]:
    scores = judged_item.outcome.scores
    # `check_kinds` has refused other outcomes.
    assert scores is not None
    # The first three responses are right, the last three wrong; see `item`.
    return [scores[right] - scores[STYLES + wrong] for right, wrong in pairs]
