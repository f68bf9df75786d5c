"""A published number, and the names of benchmarks, variants and metrics that published tables may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# The variant of a value whose table does not state how it was computed.
UNKNOWN = "unknown"
SCHEMES = ("official", "r1_reward", "unifiedreward")
MM_RLHF = ("mcq", "long", "short", "safety", "video")

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "vl_rewardbench": (*SCHEMES, *(f"{scheme}_dedupe_by_id" for scheme in SCHEMES)),
    "mm_rlhf_rewardbench": ("published",),
    "multimodal_rewardbench": ("micro", "seven_column_mean"),
    "rewardbench": ("four_sections", "with_prior_sets"),
    "rewardbench_2": ("published",),
    "rm_bench": ("domain_mean", "row_pooled"),
    "judgebench": ("both_orders", "one_order"),
    "multimodal_rewardbench_2": ("both_orders",),
    # Not a benchmark of its own: means of columns of the same table.
    "mean_of_benchmarks": ("two_columns", "three_columns", "four_columns"),
}
METRICS: Mapping[str, tuple[str, ...]] = {
    "vl_rewardbench": ("general", "hallucination", "reasoning", "overall", "macro"),
    "mm_rlhf_rewardbench": ("acc", "acc_plus", *MM_RLHF, *(f"{category}_plus" for category in MM_RLHF)),
    "multimodal_rewardbench": (
        *("overall", "correctness", "preference", "knowledge"),
        *("math", "coding", "safety", "vqa"),
    ),
    "rewardbench": ("overall", "chat", "chat_hard", "safety", "reasoning", "prior_sets"),
    "rewardbench_2": ("overall", "factuality", "precise_if", "math", "safety", "focus", "ties"),
    "rm_bench": ("overall", "easy", "normal", "hard", "chat", "code", "math", "safety"),
    "judgebench": ("overall", "knowledge", "reasoning", "math", "coding"),
    "multimodal_rewardbench_2": ("overall", "t2i", "edit", "interleaved", "reasoning"),
    "mean_of_benchmarks": ("overall", "multimodal", "text"),
}


@dataclass(frozen=True)
class PublishedValue:
    """A number from a paper, under the protocol variant by which it was computed.

    >>> from basereward.evaluation.published.published import every_value
    >>> every_value()[0].benchmark in VARIANTS
    True
    """

    model: str
    value: float
    """a share from 0 to 1"""
    paper: str
    table: str
    benchmark: str
    variant: str
    metric: str
    note: str | None
    corrected: bool
    """whether variant, metric or value are not those that the table states; `note` says why"""
    printed: float
    """the percentage in the table"""
    count: tuple[int, int] | None = None
    """(right, all) items, if known"""
