"""VL-RewardBench (arXiv 2411.17451): pairs about images, under the three schemes of categories that are in use."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected
from basereward.evaluation.items import Item, JudgedItem
from basereward.evaluation.protocols import Protocol
from basereward.evaluation.statistics.measures import (
    Measures,
    Undecided,
    Variant,
    accuracy,
    length_controlled,
    mean_accuracy,
    per_vote,
)
from basereward.evaluation.statistics.votes import accuracy_over_votes

CATEGORIES = ("general", "hallucination", "reasoning")
REASONING = ("mathverse", "mmmu")
# The sources that a scheme assigns to hallucination. In all schemes mathverse and mmmu are reasoning, and all other
# sources are general. The comments give the numbers of items: general / hallucination / reasoning.
SCHEMES: dict[str, tuple[str, ...]] = {
    # 183 / 749 / 318
    "official": ("hallucination", "RLAIF", "RLHF"),
    # 484 / 448 / 318, in R1-Reward and BaseReward.
    "r1_reward": ("hallucination",),
    # 631 / 301 / 318, in the first official script and in UnifiedReward.
    "unifiedreward": ("RLAIF", "RLHF"),
}
# The official script leaves out items whose votes have no majority; the others count them as wrong.
UNDECIDED: dict[str, Undecided] = {"official": "left_out", "r1_reward": "wrong", "unifiedreward": "wrong"}


class VLRewardBench(Protocol):
    """Rows of `query`, two responses (`response`), their ranks (`human_ranking`, lower is better) and an `image`; or,
    in copies of the benchmark, rows of `query`, `chosen`, `rejected` and an `image`.

    There is one variant per scheme, and one each with `_dedupe_by_id`, which keeps the first row of every id (1,225 of
    1,250 rows), as two rows of Table 9 of BaseReward do. `overall` weights all items equally, `macro` is the mean of
    the three categories.

    >>> list(VLRewardBench().variants)[:3]
    ['official', 'r1_reward', 'unifiedreward']
    """

    columns = ("id", "query", "image")
    optional_columns: ClassVar[Mapping[str, str]] = {
        "response": "both responses, with `human_ranking`",
        "human_ranking": "their ranks, [0, 1] or [1, 0]",
        "chosen": "the better response, in place of these two",
        "rejected": "the other response",
    }

    @property
    def variants(self) -> Mapping[str, Variant]:
        """One per scheme, with and without duplicates; `over_votes`, `per_vote` and `length_controlled`."""
        by_scheme: dict[str, Variant] = {name: partial(_measures, scheme=name) for name in SCHEMES}
        deduped: dict[str, Variant] = {
            f"{name}_dedupe_by_id": _on_first_rows(variant) for name, variant in by_scheme.items()
        }
        return {
            **by_scheme,
            **deduped,
            "over_votes": _over_votes,
            "per_vote": lambda judged: {"overall": per_vote(judged)},
            "length_controlled": lambda judged: {"overall": length_controlled(judged)},
        }

    def item(self, row: Mapping[str, Any], *, number: int, images: ImageStore) -> Item:
        """Convert a row to an item.

        Raises:
            RowRejected: the number of responses is not two, the row has both forms of a pair, or the ranks are not 0
                and 1.
        """
        responses, ranking = _pair(row)
        if not isinstance(responses, list) or len(responses) != 2:
            raise RowRejected("wrong_type", f"`response` is {shown(responses)}; a list of two answers is needed")
        if ranking not in ([0, 1], [1, 0]) or any(isinstance(rank, bool) for rank in ranking):
            raise RowRejected("wrong_type", f"`human_ranking` is {shown(ranking)}; [0, 1] or [1, 0] is needed")
        return Item(
            row=number,
            id=str(row["id"]),
            prompt=row["query"],
            responses=tuple(responses),
            right=(ranking.index(0),),
            wrong=(ranking.index(1),),
            prompt_id=str(row["id"]),
            # Ids are such as "RLAIF-12" and "mathverse_7".
            labels={"source": re.split("[_-]", str(row["id"]), maxsplit=1)[0]},
            images=(row["image"],),
        )


def _pair(row: Mapping[str, Any]) -> tuple[Any, Any]:
    """Both responses and their ranks, from either form of a row."""
    ranked, chosen = ("response", "human_ranking"), ("chosen", "rejected")
    present = [form for form in (ranked, chosen) if _has_any(row, form)]
    if len(present) == 2:
        raise RowRejected(
            "conflicting_columns", "the row has `response` or `human_ranking`, and `chosen` or `rejected`"
        )
    form = present[0] if present else ranked
    missing = [name for name in form if row.get(name) is None]
    if missing:
        alternative = "" if present else "; or `chosen` and `rejected`"
        raise RowRejected(
            "missing_column",
            f"missing or empty: {', '.join(missing)}{alternative}. Columns found: {', '.join(map(str, row))}. "
            f"If the data set has them under other names, map them: columns.{missing[0]}=...",
        )
    if form == chosen:
        return [row["chosen"], row["rejected"]], [0, 1]
    return row["response"], row["human_ranking"]


def _has_any(row: Mapping[str, Any], columns: Sequence[str]) -> bool:
    return any(row.get(name) is not None for name in columns)


def category(item: Item, *, scheme: str) -> str:
    """The category of an item under a scheme, by the source with which its id begins.

    >>> item = Item(0, "RLAIF-12", "?", ("a", "b"), (0,), (1,), "RLAIF-12", {"source": "RLAIF"})
    >>> category(item, scheme="official"), category(item, scheme="r1_reward")
    ('hallucination', 'general')
    """
    source = item.labels["source"]
    if source in REASONING:
        return "reasoning"
    return "hallucination" if source in SCHEMES[scheme] else "general"


def _by_category(judged: Sequence[JudgedItem], scheme: str) -> dict[str, list[JudgedItem]]:
    members: dict[str, list[JudgedItem]] = {name: [] for name in CATEGORIES}
    for judged_item in judged:
        members[category(judged_item.item, scheme=scheme)].append(judged_item)
    return members


def _over_votes(judged: Sequence[JudgedItem]) -> Measures:
    """Accuracy by number of votes, as the analysis of the paper: `overall` and the mean of the official categories."""
    return accuracy_over_votes(judged, categories=_by_category(judged, "official"))


def _measures(judged: Sequence[JudgedItem], *, scheme: str) -> Measures:
    undecided = UNDECIDED[scheme]
    by_category = _by_category(judged, scheme)
    measures = {
        "overall": accuracy(judged, undecided=undecided),
        "macro": mean_accuracy(by_category, undecided=undecided),
    }
    for name, members in by_category.items():
        measures[name] = accuracy(members, undecided=undecided)
    return measures


def _on_first_rows(variant: Variant) -> Callable[[Sequence[JudgedItem]], Measures]:
    """The variant on the first row of every id."""

    def deduplicated(judged: Sequence[JudgedItem]) -> Measures:
        first_rows: dict[str, JudgedItem] = {}
        for judged_item in judged:
            first_rows.setdefault(judged_item.item.id, judged_item)
        return variant(list(first_rows.values()))

    return deduplicated
