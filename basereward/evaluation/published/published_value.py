"""A published number, and the names of benchmarks, variants and metrics that published tables may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# The variant of a value whose table does not state how it was computed.
UNKNOWN = "unknown"
SCHEMES = ("official", "r1_reward", "unifiedreward")
VL_METRICS = ("general", "hallucination", "reasoning", "overall", "macro")
MM_RLHF = ("mcq", "long", "short", "safety", "video")
# The tasks of Multimodal RewardBench 2 that have a benchmark of their own beside that of its task `reasoning`.
MMRB2, MMRB2_TASKS = "multimodal_rewardbench_2", ("t2i", "edit", "interleaved")
VIDEO_CATEGORIES = ("long_perception", "short_perception", "knowledge", "reasoning", "safety")
OMNI_TASKS = (
    *("text_to_text", "text_image_to_text", "text_video_to_text", "text_audio_to_text"),
    *("text_to_image", "text_image_to_image", "text_to_video", "text_to_audio", "text_to_3D"),
)
SAMPLE_SIZES = (1, 2, 4, 8)
# Not a benchmark of its own: means of columns of the same table.
MEAN_OF_BENCHMARKS = "mean_of_benchmarks"

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "vl_rewardbench": (*SCHEMES, *(f"{scheme}_dedupe_by_id" for scheme in SCHEMES)),
    "vl_rewardbench_1247": SCHEMES,
    "mm_rlhf_rewardbench": ("published",),
    "multimodal_rewardbench": ("micro", "seven_column_mean"),
    "rewardbench": ("four_sections", "with_prior_sets"),
    "rewardbench_2": ("published",),
    "rm_bench": ("domain_mean", "row_pooled"),
    "judgebench": ("both_orders", "one_order"),
    **dict.fromkeys((MMRB2, *(f"{MMRB2}_{task}" for task in MMRB2_TASKS), f"{MMRB2}_pooled"), ("both_orders",)),
    **dict.fromkeys(("mr2bench_image", "mr2bench_video"), ("best_of_four",)),
    # `yojo` is counted as `micro` is. It is a variant of its own because the models as YOJO ran them differ from the
    # same models in the benchmark's paper by up to 42 points. No evaluation of ours is of this variant.
    "videorewardbench": ("micro", "yojo"),
    "omnirewardbench": ("with_ties", "without_ties"),
    "best_of_n": ("over_n",),
    MEAN_OF_BENCHMARKS: ("two_columns", "three_columns", "four_columns", "six_columns"),
}
METRICS: Mapping[str, tuple[str, ...]] = {
    "vl_rewardbench": VL_METRICS,
    "vl_rewardbench_1247": VL_METRICS,
    "mm_rlhf_rewardbench": ("acc", "acc_plus", *MM_RLHF, *(f"{category}_plus" for category in MM_RLHF)),
    "multimodal_rewardbench": (
        *("overall", "correctness", "preference", "knowledge"),
        *("math", "coding", "safety", "vqa"),
    ),
    "rewardbench": ("overall", "chat", "chat_hard", "safety", "reasoning", "prior_sets"),
    "rewardbench_2": ("overall", "factuality", "precise_if", "math", "safety", "focus", "ties"),
    "rm_bench": ("overall", "easy", "normal", "hard", "chat", "code", "math", "safety"),
    "judgebench": ("overall", "knowledge", "reasoning", "math", "coding"),
    MMRB2: ("overall", "text_only"),
    **{f"{MMRB2}_{task}": ("overall",) for task in MMRB2_TASKS},
    f"{MMRB2}_pooled": ("overall", *MMRB2_TASKS, "reasoning"),
    **dict.fromkeys(("mr2bench_image", "mr2bench_video"), ("overall",)),
    "videorewardbench": ("overall", "macro", *VIDEO_CATEGORIES),
    "omnirewardbench": ("overall", *OMNI_TASKS),
    "best_of_n": ("overall", *(f"best_of_{n}" for n in SAMPLE_SIZES)),
    MEAN_OF_BENCHMARKS: ("overall", "multimodal", "text"),
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
