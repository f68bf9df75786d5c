"""Published numbers from their counts, and the schemes on the real annotations."""

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
    """The first so many items of each category are right, the others wrong."""
    left = dict(right)
    judged = []
    for item in items:
        left[key(item)] -= 1
        judged.append(JudgedItem(item, Outcome(correct=left[key(item)] >= 0)))
    return judged


def percents(measures: Measures) -> dict[str, float]:
    """As papers print them."""
    return {name: round(100 * measure.value, 2) for name, measure in measures.items()}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes_have_the_published_sizes(scheme: str, real_rows: Path) -> None:
    """183 / 749 / 318, 484 / 448 / 318 and 631 / 301 / 318 of 1,250."""
    items = vl_rewardbench(real_rows).items
    counts = Counter(category(item, scheme=scheme) for item in items)
    assert tuple(counts[name] for name in NAMES) == SCHEMES[scheme]
    assert len({item.id for item in items}) == 1225


PRINTED = {
    # Table 9 of BaseReward and the table of R1-Reward, by (general, hallucination, reasoning) of the scheme.
    "BaseReward (Qwen2.5-VL)": ("r1_reward", (396, 413, 218), 82.16, (81.82, 92.19, 68.55)),
    "BaseReward (Qwen2-VL)": ("r1_reward_dedupe_by_id", (400, 380, 182), 78.53, (82.64, 84.82, 62.12)),
    "BaseReward (ensemble)": ("r1_reward_dedupe_by_id", (413, 411, 210), 84.41, (85.33, 91.74, 71.67)),
    "R1-Reward": ("r1_reward", (309, 384, 206), 71.92, (63.84, 85.71, 64.78)),
}


@pytest.mark.parametrize("model", PRINTED)
def test_vl_rewardbench_as_printed(model: str, real_rows: Path) -> None:
    """Counts of right answers give the printed percentages under the variant that the paper used."""
    variant, right, overall, printed = PRINTED[model]
    benchmark = vl_rewardbench(real_rows)
    items = list({item.id: item for item in reversed(benchmark.items)}.values())[::-1]  # the first row of each id
    if not variant.endswith("_dedupe_by_id"):
        items = list(benchmark.items)
    judged = outcomes(items, dict(zip(NAMES, right, strict=True)), lambda item: category(item, scheme="r1_reward"))
    told = percents(benchmark.variants[variant](judged))
    assert (told["overall"], *(told[name] for name in NAMES)) == (overall, *printed)
    assert told["macro"] == pytest.approx(sum(printed) / 3, abs=0.01)


def test_duplicates_are_left_out_only_where_it_is_said(real_rows: Path) -> None:
    """The 25 ids that come twice count twice in the plain variants and once, by their first row, in the others."""
    benchmark = vl_rewardbench(real_rows)
    judged = [JudgedItem(item, Outcome(correct=True)) for item in benchmark.items]
    sizes = {name: measures(judged)["overall"].denominator for name, measures in benchmark.variants.items()}
    assert {name: size for name, size in sizes.items() if "dedupe" in name} == {
        f"{scheme}_dedupe_by_id": 1225 for scheme in SCHEMES
    }
    assert {sizes[scheme] for scheme in SCHEMES} == {1250}


def test_mm_rlhf_as_printed(real_rows: Path) -> None:
    """BaseReward: 156 of 170 pairs and 37 of 46 prompts, 91.76 and 80.43.

    14 wrong pairs in 9 prompts; the categories are 95.24, 97.30 and 94.12 where Table 8 misprints three of them.
    """
    wrong = {"mcq": [1, 1], "long": [1], "short": [1, 1], "safety": [3, 3], "video": [2, 1]}  # of one prompt each
    benchmark = mm_rlhf(real_rows)
    judged = []
    for items in by_prompt([JudgedItem(item, Outcome(correct=True)) for item in benchmark.items]).values():
        left = wrong[items[0].item.labels["category"]]
        spoilt = left.pop(0) if left and left[0] <= len(items) else 0
        judged += [JudgedItem(each.item, Outcome(correct=place >= spoilt)) for place, each in enumerate(items)]
    assert not any(wrong.values())
    told = percents(benchmark.variants["published"](judged))
    assert (told["acc"], told["acc_plus"]) == (91.76, 80.43)
    assert [told[name] for name in wrong] == [95.24, 97.30, 94.12, 81.25, 88.0]


def test_mm_rlhf_sizes(real_rows: Path) -> None:
    """42, 37, 34, 32 and 25 pairs; 10, 10, 10, 6 and 10 prompts, 46 in all."""
    benchmark = mm_rlhf(real_rows)
    measures = benchmark.variants["published"]([JudgedItem(item, Outcome(correct=True)) for item in benchmark.items])
    names = ("mcq", "long", "short", "safety", "video")
    assert [measures[name].denominator for name in names] == [42, 37, 34, 32, 25]
    assert [measures[f"{name}_plus"].denominator for name in names] == [10, 10, 10, 6, 10]
    assert (measures["acc"].denominator, measures["acc_plus"].denominator) == (170, 46)


def test_the_longer_answer(real_rows: Path) -> None:
    """71.8 Acc and 47.8 Acc+ on MM-RLHF-RewardBench, 42.6 % on VL-RewardBench, where the shorter one gets 56.5 %."""

    def by(rule: str, benchmark: Benchmark, variant: str) -> dict[str, float]:
        found = baseline(rule, benchmark.items)  # type: ignore[arg-type]
        return percents(
            benchmark.variants[variant]([JudgedItem(i, o) for i, o in zip(benchmark.items, found, strict=True)])
        )

    told = by("longer", mm_rlhf(real_rows), "published")
    assert (round(told["acc"], 1), round(told["acc_plus"], 1)) == (71.8, 47.8)
    assert [told[name] for name in ("mcq", "long", "short", "safety", "video")] == [73.81, 81.08, 50.0, 65.62, 92.0]
    assert round(by("longer", vl_rewardbench(real_rows), "official")["overall"], 1) == 42.6
    assert round(by("shorter", vl_rewardbench(real_rows), "official")["overall"], 1) == 56.5


def test_a_judge_that_always_says_one(real_rows: Path) -> None:
    """It gets 99.6 % in the stored order, half of both orders exactly, and about half of random ones."""
    benchmark = vl_rewardbench(real_rows)
    told = {}
    for order in ("fixed", "random", "both"):
        found = judged_by(lambda item, shown: 0, benchmark.items, order=order)
        judged = [JudgedItem(item, outcome) for item, outcome in zip(benchmark.items, found, strict=True)]
        told[order] = benchmark.variants["per_vote"](judged)["overall"]
    assert (told["fixed"].numerator, told["fixed"].denominator) == (1245, 1250)
    assert (told["both"].numerator, told["both"].denominator) == (1250, 2500)
    assert abs(told["random"].numerator - 625) < 4 * (1250 / 4) ** 0.5  # four standard deviations of a coin
