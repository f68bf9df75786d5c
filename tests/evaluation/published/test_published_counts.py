"""Test published numbers against their counts, and the category schemes on the real annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from basereward.evaluation.benchmark import Benchmark
from basereward.evaluation.items import Item, JudgedItem, Outcome, by_prompt
from basereward.evaluation.outcome import baseline, judged_by
from basereward.evaluation.protocols.vl_rewardbench import category
from basereward.evaluation.statistics.measures import Measures
from tests.helpers.benchmark_rows import mm_rlhf, vl_rewardbench

SCHEMES = {"official": (183, 749, 318), "r1_reward": (484, 448, 318), "unifiedreward": (631, 301, 318)}
NAMES = ("general", "hallucination", "reasoning")


def outcomes(items: list[Item], right: Mapping[str, int], key: Callable[[Item], str]) -> list[JudgedItem]:
    """Mark the first `right[category]` items of each category as right and the others as wrong."""
    remaining = dict(right)
    judged = []
    for item in items:
        remaining[key(item)] -= 1
        judged.append(JudgedItem(item, Outcome(correct=remaining[key(item)] >= 0)))
    return judged


def percents(measures: Measures) -> dict[str, float]:
    """Return the measures in per cent with two decimals, as papers print them."""
    return {name: round(100 * measure.value, 2) for name, measure in measures.items()}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_category_schemes_have_the_published_sizes(scheme: str, real_rows: Path) -> None:
    """The categories have 183 / 749 / 318, 484 / 448 / 318 and 631 / 301 / 318 of 1,250 rows."""
    items = vl_rewardbench(real_rows).items
    counts = Counter(category(item, scheme=scheme) for item in items)
    assert tuple(counts[name] for name in NAMES) == SCHEMES[scheme]
    assert len({item.id for item in items}) == 1225


PRINTED = {
    # Table 9 of BaseReward and the table of R1-Reward; tuples are (general, hallucination, reasoning) of the scheme.
    "BaseReward (Qwen2.5-VL)": ("r1_reward", (396, 413, 218), 82.16, (81.82, 92.19, 68.55)),
    "BaseReward (Qwen2-VL)": ("r1_reward_dedupe_by_id", (400, 380, 182), 78.53, (82.64, 84.82, 62.12)),
    "BaseReward (ensemble)": ("r1_reward_dedupe_by_id", (413, 411, 210), 84.41, (85.33, 91.74, 71.67)),
    "R1-Reward": ("r1_reward", (309, 384, 206), 71.92, (63.84, 85.71, 64.78)),
}


@pytest.mark.parametrize("model", PRINTED)
def test_vl_rewardbench_counts_give_the_printed_percentages(model: str, real_rows: Path) -> None:
    """The counts of right answers give the printed percentages under the paper's variant."""
    variant, right, overall, printed = PRINTED[model]
    benchmark = vl_rewardbench(real_rows)
    items = list({item.id: item for item in reversed(benchmark.items)}.values())[::-1]  # the first row of each id
    if not variant.endswith("_dedupe_by_id"):
        items = list(benchmark.items)
    judged = outcomes(items, dict(zip(NAMES, right, strict=True)), lambda item: category(item, scheme="r1_reward"))
    values = percents(benchmark.variants[variant](judged))
    assert (values["overall"], *(values[name] for name in NAMES)) == (overall, *printed)
    assert values["macro"] == pytest.approx(sum(printed) / 3, abs=0.01)


def test_only_dedupe_variants_leave_out_duplicates(real_rows: Path) -> None:
    """The 25 repeated ids count twice in the plain variants and once, by their first row, in the dedupe variants."""
    benchmark = vl_rewardbench(real_rows)
    judged = [JudgedItem(item, Outcome(correct=True)) for item in benchmark.items]
    sizes = {name: measures(judged)["overall"].denominator for name, measures in benchmark.variants.items()}
    assert {name: size for name, size in sizes.items() if "dedupe" in name} == {
        f"{scheme}_dedupe_by_id": 1225 for scheme in SCHEMES
    }
    assert {sizes[scheme] for scheme in SCHEMES} == {1250}


def test_mm_rlhf_counts_give_the_printed_percentages(real_rows: Path) -> None:
    """BaseReward has 156 of 170 pairs and 37 of 46 prompts right: 91.76 and 80.43.

    The 14 wrong pairs are in 9 prompts. The categories are 95.24, 97.30 and 94.12, where Table 8 has misprints.
    """
    # Each number counts the wrong pairs of one prompt.
    wrong = {"mcq": [1, 1], "long": [1], "short": [1, 1], "safety": [3, 3], "video": [2, 1]}
    benchmark = mm_rlhf(real_rows)
    judged = []
    for items in by_prompt([JudgedItem(item, Outcome(correct=True)) for item in benchmark.items]).values():
        remaining = wrong[items[0].item.labels["category"]]
        num_wrong = remaining.pop(0) if remaining and remaining[0] <= len(items) else 0
        judged += [
            JudgedItem(judged_item.item, Outcome(correct=index >= num_wrong)) for index, judged_item in enumerate(items)
        ]
    assert not any(wrong.values())
    values = percents(benchmark.variants["published"](judged))
    assert (values["acc"], values["acc_plus"]) == (91.76, 80.43)
    assert [values[name] for name in wrong] == [95.24, 97.30, 94.12, 81.25, 88.0]


def test_mm_rlhf_sizes(real_rows: Path) -> None:
    """The categories have 42, 37, 34, 32 and 25 pairs and 10, 10, 10, 6 and 10 prompts, 46 in total."""
    benchmark = mm_rlhf(real_rows)
    measures = benchmark.variants["published"]([JudgedItem(item, Outcome(correct=True)) for item in benchmark.items])
    names = ("mcq", "long", "short", "safety", "video")
    assert [measures[name].denominator for name in names] == [42, 37, 34, 32, 25]
    assert [measures[f"{name}_plus"].denominator for name in names] == [10, 10, 10, 6, 10]
    assert (measures["acc"].denominator, measures["acc_plus"].denominator) == (170, 46)


def test_length_baselines_give_the_published_shares(real_rows: Path) -> None:
    """The longer answer has 71.8 Acc and 47.8 Acc+ on MM-RLHF-RewardBench and 42.6 % on VL-RewardBench, where the
    shorter answer has 56.5 %."""

    def baseline_percents(rule: str, benchmark: Benchmark, variant: str) -> dict[str, float]:
        baseline_outcomes = baseline(rule, benchmark.items)  # type: ignore[arg-type]
        return percents(
            benchmark.variants[variant](
                [JudgedItem(item, outcome) for item, outcome in zip(benchmark.items, baseline_outcomes, strict=True)]
            )
        )

    values = baseline_percents("longer", mm_rlhf(real_rows), "published")
    assert (round(values["acc"], 1), round(values["acc_plus"], 1)) == (71.8, 47.8)
    assert [values[name] for name in ("mcq", "long", "short", "safety", "video")] == [73.81, 81.08, 50.0, 65.62, 92.0]
    assert round(baseline_percents("longer", vl_rewardbench(real_rows), "official")["overall"], 1) == 42.6
    assert round(baseline_percents("shorter", vl_rewardbench(real_rows), "official")["overall"], 1) == 56.5


def test_judge_that_always_takes_the_first_answer(real_rows: Path) -> None:
    """It has 99.6 % in the stored order, exactly half in both orders, and about half in random orders."""
    benchmark = vl_rewardbench(real_rows)
    measures = {}
    for order in ("fixed", "random", "both"):
        judge_outcomes = judged_by(lambda item, shown: 0, benchmark.items, order=order)
        judged = [JudgedItem(item, outcome) for item, outcome in zip(benchmark.items, judge_outcomes, strict=True)]
        measures[order] = benchmark.variants["per_vote"](judged)["overall"]
    assert (measures["fixed"].numerator, measures["fixed"].denominator) == (1245, 1250)
    assert (measures["both"].numerator, measures["both"].denominator) == (1250, 2500)
    assert abs(measures["random"].numerator - 625) < 4 * (1250 / 4) ** 0.5  # four standard deviations of a coin
