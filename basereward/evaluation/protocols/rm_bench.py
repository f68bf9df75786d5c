"""RM-Bench (arXiv 2410.16184): three right and three wrong answers in three styles, every one against every other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from basereward.data.images.image_store import ImageStore
from basereward.evaluation.items import Item, JudgedItem
from basereward.evaluation.protocols._rows import one_of, text, texts
from basereward.evaluation.statistics.measures import Measures, Variant
from basereward.evaluation.statistics.shares import Added, CountedPart, check_kinds, share, weighted

STYLES = 3  # concise, detailed in plain text, detailed in Markdown
DOMAINS = ("chat", "code", "math", "safety")
STORED = ("chat", "code", "math", "safety-refuse", "safety-response")
Cells = tuple[tuple[int, int], ...]
ALL: Cells = tuple((i, j) for i in range(STYLES) for j in range(STYLES))
# Pairs (style of the right answer, style of the wrong one).
LEVELS: dict[str, Cells] = {
    "easy": tuple((i, j) for i, j in ALL if i > j),  # the right answer has the richer style
    "normal": tuple((i, j) for i, j in ALL if i == j),
    "hard": tuple((i, j) for i, j in ALL if i < j),
}


class RMBench:
    """Rows of `prompt`, three `chosen` and three `rejected` answers in the order of their styles, and a `domain`.

    A comparison is right iff the right answer scores strictly higher. A domain's value is its share of right ones among
    nine a row, which is the mean of easy, normal and hard. `domain_mean` gives the four domains equal weight,
    `row_pooled` the rows; a domain's own value is the same in both. Rows of safety are pooled. `ties` counts
    comparisons.

    Args:
        domain: of rows that have none, as those of the authors' files of one domain, such as `chat_filtered.json`.
    """

    columns: tuple[str, ...] = ("id", "prompt", "chosen", "rejected", "domain")
    missing: ClassVar[Mapping[str, str]] = {
        "domain": "The authors' files of one domain lack it: give total_dataset.json, which has all of them with their "
        f"domains; or say it of one file by protocol.domain=, one of {', '.join(STORED)}."
    }

    def __init__(self, *, domain: Literal["chat", "code", "math", "safety-refuse", "safety-response"] | None = None):
        self._domain = domain
        if domain is not None:
            self.columns = ("id", "prompt", "chosen", "rejected")

    @property
    def variants(self) -> Mapping[str, Variant]:
        return {"domain_mean": _domain_mean, "row_pooled": _row_pooled}

    def item(self, row: Mapping[str, Any], *, number: int, images: ImageStore) -> Item:
        """
        Raises:
            RowRejected: not three and three answers, or an unknown domain.
        """
        domain = one_of({**row, "domain": row.get("domain") or self._domain}, "domain", STORED)
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
    domains = _by_domain(judged)
    means = {
        name: weighted([CountedPart(1.0, _wins(part, cells)) for part in domains.values()], ties=_ties(judged, cells))
        for name, cells in {"overall": ALL, **LEVELS}.items()
    }
    return {**means, **_of_domains(domains)}


def _row_pooled(judged: Sequence[JudgedItem]) -> Measures:
    domains = _by_domain(judged)
    pooled = {
        name: share(_wins(judged, cells), ties=_ties(judged, cells))
        for name, cells in {"overall": ALL, **LEVELS}.items()
    }
    return {**pooled, **_of_domains(domains)}


def _of_domains(domains: Mapping[str, Sequence[JudgedItem]]) -> Measures:
    return {name: share(_wins(part, ALL), ties=_ties(part, ALL)) for name, part in domains.items()}


def _by_domain(judged: Sequence[JudgedItem]) -> dict[str, list[JudgedItem]]:
    check_kinds(judged, ("scores",), what="RM-Bench", why="it compares each of three right with each of three wrong.")
    return {name: [each for each in judged if each.item.labels["domain"] == name] for name in DOMAINS}


def _wins(judged: Sequence[JudgedItem], cells: Cells) -> list[Added]:
    return [
        Added(each.item.prompt_id, sum(margin > 0 for margin in _margins(each, cells)), len(cells)) for each in judged
    ]


def _ties(judged: Sequence[JudgedItem], cells: Cells) -> int:
    return sum(margin == 0 for each in judged for margin in _margins(each, cells))


def _margins(each: JudgedItem, cells: Cells) -> list[float]:
    scores = each.outcome.scores
    assert scores is not None  # the kind was checked
    return [scores[i] - scores[STYLES + j] for i, j in cells]
