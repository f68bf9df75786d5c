"""VL-RewardBench (arXiv 2411.17451): pairs about pictures, under the three category schemes that are in use."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected
from basereward.evaluation.items import Item, JudgedItem
from basereward.evaluation.statistics.measures import (
    Measures,
    Undecided,
    Variant,
    accuracy,
    length_controlled,
    mean_accuracy,
    per_vote,
)

CATEGORIES = ("general", "hallucination", "reasoning")
REASONING = ("mathverse", "mmmu")
# Which sources a scheme takes for hallucination; mathverse and mmmu are reasoning in all, the rest is general.
SCHEMES: dict[str, tuple[str, ...]] = {
    "official": ("hallucination", "RLAIF", "RLHF"),  # 183 / 749 / 318
    "r1_reward": ("hallucination",),  # 484 / 448 / 318, as R1-Reward and BaseReward count
    "unifiedreward": ("RLAIF", "RLHF"),  # 631 / 301 / 318, as the first official script and UnifiedReward count
}
# The official script leaves items without a majority out; the others count what they cannot read as wrong.
UNDECIDED: dict[str, Undecided] = {"official": "left_out", "r1_reward": "wrong", "unifiedreward": "wrong"}


class VLRewardBench:
    """Rows of `query`, two answers (`response`) and their ranks (`human_ranking`, lower is better), and an `image`; or
    of `query`, `chosen`, `rejected` and an `image`, as copies of the benchmark have them.

    A variant a scheme, and one each with `_dedupe_by_id`, which keeps the first row of every id (1,225 of 1,250), as
    two rows of BaseReward's Table 9 do. `overall` counts items, `macro` is the mean of the three categories.
    """

    columns = ("id", "query", "image")
    also: ClassVar[Mapping[str, str]] = {
        "response": "both answers, with `human_ranking`",
        "human_ranking": "their ranks, [0, 1] or [1, 0]",
        "chosen": "the better answer, in place of these two",
        "rejected": "the other answer",
    }

    @property
    def variants(self) -> Mapping[str, Variant]:
        by_scheme: dict[str, Variant] = {name: partial(_measures, scheme=name) for name in SCHEMES}
        deduped: dict[str, Variant] = {
            f"{name}_dedupe_by_id": _on_first_rows(variant) for name, variant in by_scheme.items()
        }
        return {
            **by_scheme,
            **deduped,
            "per_vote": lambda judged: {"overall": per_vote(judged)},
            "length_controlled": lambda judged: {"overall": length_controlled(judged)},
        }

    def item(self, row: Mapping[str, Any], *, number: int, images: ImageStore) -> Item:
        """
        Raises:
            RowRejected: not two answers, both forms of a pair, or ranks that are not 0 and 1.
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
            labels={"source": re.split("[_-]", str(row["id"]), maxsplit=1)[0]},
            images=(row["image"],),
        )


def _pair(row: Mapping[str, Any]) -> tuple[Any, Any]:
    """Both answers and their ranks, of either form."""
    forms = [("response", "human_ranking"), ("chosen", "rejected")]
    there = [form for form in forms if any(row.get(name) is not None for name in form)]
    if len(there) == 2:
        raise RowRejected(
            "conflicting_columns", "the row has `response` or `human_ranking`, and `chosen` or `rejected`"
        )
    lacking = [name for name in (there or forms)[0] if row.get(name) is None]
    if lacking:
        either = "" if there else "; or `chosen` and `rejected`"
        raise RowRejected(
            "missing_column",
            f"missing or empty: {', '.join(lacking)}{either}. Columns found: {', '.join(map(str, row))}. "
            f"If they are these under other names, map them: columns.{lacking[0]}=...",
        )
    if there == [("chosen", "rejected")]:
        return [row["chosen"], row["rejected"]], [0, 1]
    return row["response"], row["human_ranking"]


def category(item: Item, *, scheme: str) -> str:
    """The category of an item under a scheme, by the source that its id begins with."""
    source = item.labels["source"]
    if source in REASONING:
        return "reasoning"
    return "hallucination" if source in SCHEMES[scheme] else "general"


def _measures(judged: Sequence[JudgedItem], *, scheme: str) -> Measures:
    undecided = UNDECIDED[scheme]
    parts: dict[str, list[JudgedItem]] = {name: [] for name in CATEGORIES}
    for each in judged:
        parts[category(each.item, scheme=scheme)].append(each)
    measures = {name: accuracy(part, undecided=undecided) for name, part in parts.items()}
    macro = mean_accuracy(parts, undecided=undecided)
    return {"overall": accuracy(judged, undecided=undecided), "macro": macro, **measures}


def _on_first_rows(variant: Variant) -> Callable[[Sequence[JudgedItem]], Measures]:
    def measures(judged: Sequence[JudgedItem]) -> Measures:
        first: dict[str, JudgedItem] = {}
        for each in judged:
            first.setdefault(each.item.id, each)
        return variant(list(first.values()))

    return measures
