"""RewardBench (arXiv 2403.13787): text pairs in 23 subsets, weighted into four sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

from basereward.data.images.image_store import ImageStore
from basereward.evaluation.items import Decision, Item, JudgedItem, by_label
from basereward.evaluation.protocols import Protocol
from basereward.evaluation.protocols._rows import one_of, prompt_key, text
from basereward.evaluation.statistics.measures import Measure, Measures, Variant
from basereward.evaluation.statistics.shares import CountedPart, count, right, share, weighted

# The weight of a subset in its section is the number of its rows. The exception is math-prm: it has the weight of the
# six subsets of code together, so that code and math count equally (`rewardbench/constants.py` of the authors).
SECTIONS: dict[str, dict[str, int]] = {
    "chat": {
        "alpacaeval-easy": 100,
        "alpacaeval-length": 95,
        "alpacaeval-hard": 95,
        "mt-bench-easy": 28,
        "mt-bench-med": 40,
    },
    "chat_hard": {
        "mt-bench-hard": 37,
        "llmbar-natural": 100,
        "llmbar-adver-neighbor": 134,
        "llmbar-adver-GPTInst": 92,
        "llmbar-adver-GPTOut": 47,
        "llmbar-adver-manual": 46,
    },
    "safety": {
        "refusals-dangerous": 100,
        "refusals-offensive": 100,
        "xstest-should-refuse": 154,
        "xstest-should-respond": 250,
        "donotanswer": 136,
    },
    "reasoning": {
        "math-prm": 984,
        **{f"hep-{name}": 164 for name in ("cpp", "go", "java", "js", "python", "rust")},
    },
}
# Four earlier test sets, of equal weight.
PRIOR_SETS = {"anthropic_helpful": 1, "anthropic_hhh": 1, "shp": 1, "summarize": 1}
# The weight of their mean in the overall value. A section has the weight 1.
PRIOR_WEIGHT = 0.5
# An undecided item counts as half right, as an unreadable verdict does in the authors' `run_generative.py`.
UNDECIDED_CREDIT = 0.5
SUBSETS = list(chain(PRIOR_SETS, *SECTIONS.values()))


class RewardBench(Protocol):
    """Rows of `prompt`, `chosen`, `rejected` and `subset`.

    The variant `four_sections` is the mean of the sections. `with_prior_sets`, of the older leaderboard, adds the mean
    of four earlier test sets with half the weight; without rows of these sets it has no measures. `subsets` has a
    measure for every subset, and its `overall` weights all pairs equally; unlike the others it has values if subsets
    are missing. Items whose votes have no majority count as half right.

    >>> list(RewardBench().variants)
    ['four_sections', 'with_prior_sets', 'subsets']
    """

    columns = ("prompt", "chosen", "rejected", "subset")
    optional_columns: ClassVar[Mapping[str, str]] = {"id": "the number of the row by default"}

    @property
    def variants(self) -> Mapping[str, Variant]:
        """`four_sections` (published), `with_prior_sets` and `subsets`."""
        return {"four_sections": _four_sections, "with_prior_sets": _with_prior_sets, "subsets": _by_subset}

    def item(self, row: Mapping[str, Any], *, number: int, images: ImageStore) -> Item:
        """Convert a row to an item.

        Raises:
            RowRejected: a response is not text, or the subset is unknown.
        """
        return Item(
            row=number,
            id=str(row.get("id", number)),
            prompt=row["prompt"],
            responses=(text(row, "chosen"), text(row, "rejected")),
            right=(0,),
            wrong=(1,),
            # Not the id: subsets of one origin share prompts.
            prompt_id=prompt_key(row["prompt"]),
            labels={"subset": one_of(row, "subset", SUBSETS)},
        )


def _four_sections(judged: Sequence[JudgedItem]) -> Measures:
    return _measures(judged, SECTIONS, dict.fromkeys(SECTIONS, 1.0))


def _with_prior_sets(judged: Sequence[JudgedItem]) -> Measures:
    # The released file of the benchmark has no prior sets; they are a data set of their own.
    if not any(judged_item.item.labels["subset"] in PRIOR_SETS for judged_item in judged):
        return {}
    sections = {**SECTIONS, "prior_sets": PRIOR_SETS}
    return _measures(judged, sections, dict.fromkeys(SECTIONS, 1.0) | {"prior_sets": PRIOR_WEIGHT})


def _by_subset(judged: Sequence[JudgedItem]) -> Measures:
    parts = {"overall": list(judged), **by_label(judged, "subset")}
    measures: Measures = {}
    for name, members in parts.items():
        ties, undecided = count(members, Decision.TIE), count(members, Decision.UNDECIDED)
        measures[name] = share(right(members, undecided=UNDECIDED_CREDIT), ties=ties, undecided=undecided)
    return measures


def _measures(
    judged: Sequence[JudgedItem], sections: Mapping[str, Mapping[str, int]], weights: Mapping[str, float]
) -> Measures:
    """A measure per section, and their weighted mean as `overall`.

    Args:
        judged: items with outcomes.
        sections: section -> subset -> weight of the subset in the section.
        weights: of the sections in `overall`.
    """
    by_subset = by_label(judged, "subset")
    overall_parts: list[CountedPart] = []
    all_members: list[JudgedItem] = []
    measures: Measures = {}
    for name, subsets in sections.items():
        total = sum(subsets.values())
        members: list[JudgedItem] = []
        parts: list[CountedPart] = []
        for subset, size in subsets.items():
            subset_items = by_subset.get(subset, [])
            added = right(subset_items, undecided=UNDECIDED_CREDIT)
            parts.append(CountedPart(float(size), added))
            # `overall` is a sum over subsets too, so that its interval is over prompts of all sections.
            overall_parts.append(CountedPart(weights[name] * size / total, added))
            members += subset_items
        measures[name] = _section_measure(parts, members)
        all_members += members
    overall = _section_measure(overall_parts, all_members, of=sum(weights.values()))
    return {"overall": overall, **measures}


def _section_measure(
    parts: Sequence[CountedPart], members: Sequence[JudgedItem], *, of: float | None = None
) -> Measure:
    ties, undecided = count(members, Decision.TIE), count(members, Decision.UNDECIDED)
    return weighted(parts, of=of, ties=ties, undecided=undecided)
