"""A published number, and the names of benchmarks, variants and metrics under which it may stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

UNKNOWN = "unknown"  # the variant of a value whose table does not say how it was computed
MM_RLHF = "mcq long short safety video".split()
MULTIMODAL = "overall correctness preference knowledge math coding safety vqa".split()

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "vl_rewardbench": tuple(
        scheme + rows for rows in ("", "_dedupe_by_id") for scheme in ("official", "r1_reward", "unifiedreward")
    ),
    "mm_rlhf_rewardbench": ("published",),
    "multimodal_rewardbench": ("micro", "seven_column_mean"),
    "rewardbench": ("four_sections", "with_prior_sets"),
    "rewardbench_2": ("published",),
    "rm_bench": ("domain_mean", "row_pooled"),
    "judgebench": ("both_orders", "one_order"),
    "multimodal_rewardbench_2": ("both_orders",),
    "mean_of_benchmarks": ("two_columns", "three_columns", "four_columns"),  # plain means of columns of the same table
}
METRICS: Mapping[str, tuple[str, ...]] = {
    "vl_rewardbench": ("general", "hallucination", "reasoning", "overall", "macro"),
    "mm_rlhf_rewardbench": ("acc", "acc_plus", *MM_RLHF, *(f"{category}_plus" for category in MM_RLHF)),
    "multimodal_rewardbench": tuple(MULTIMODAL),
    "rewardbench": ("overall", "chat", "chat_hard", "safety", "reasoning", "prior_sets"),
    "rewardbench_2": ("overall", "factuality", "precise_if", "math", "safety", "focus", "ties"),
    "rm_bench": ("overall", "easy", "normal", "hard", "chat", "code", "math", "safety"),
    "judgebench": ("overall", "knowledge", "reasoning", "math", "coding"),
    "multimodal_rewardbench_2": ("overall", "t2i", "edit", "interleaved", "reasoning"),
    "mean_of_benchmarks": ("overall", "multimodal", "text"),
}


@dataclass(frozen=True)
class PublishedValue:
    """A number of a paper, under the variant by which it was computed.

    `value` is a share, `printed` the percentage that stands in the table. `corrected` says that variant, metric or
    value are not those that the table claims, `note` why. `count` is right ones and all, where they are known.
    """

    model: str
    value: float
    paper: str
    table: str
    benchmark: str
    variant: str
    metric: str
    note: str | None
    corrected: bool
    printed: float
    count: tuple[int, int] | None = None
