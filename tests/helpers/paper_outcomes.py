"""Build right and wrong outcomes of the paper's models, from which the benchmark protocols compute the printed
tables."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from basereward.evaluation.items import Item, JudgedItem, Outcome
from basereward.evaluation.protocols.mm_rlhf_rewardbench import MMRLHFRewardBench
from basereward.evaluation.protocols.multimodal_rewardbench import MultimodalRewardBench
from basereward.evaluation.protocols.vl_rewardbench import VLRewardBench

PROTOCOLS: dict[str, Any] = {
    "vl_rewardbench": VLRewardBench(),
    "mm_rlhf_rewardbench": MMRLHFRewardBench(),
    "multimodal_rewardbench": MultimodalRewardBench(),
}
# Number of pairs of every category; for VL-RewardBench of every source, from which the schemes build categories.
VL = {"wildvision": 183, "RLAIF": 301, "hallucination": 448, "mathverse": 318}
TWICE = 25  # reasoning pairs with a repeated id
MULTIMODAL = dict(correctness=623, preference=654, knowledge=630, math=514, coding=584, safety=508, vqa=1198)
MM_RLHF = dict(mcq=(42, 10), long=(37, 10), short=(34, 10), safety=(32, 6), video=(25, 10))  # (pairs, prompts)
SCHEMES = {
    "official": dict(general=["wildvision"], hallucination=["RLAIF", "hallucination"], reasoning=["mathverse"]),
    "r1_reward": dict(general=["wildvision", "RLAIF"], hallucination=["hallucination"], reasoning=["mathverse"]),
}


def counts(percent: float, total: int, *, digits: int) -> list[int]:
    """Return the numbers of right pairs that print as this percentage when rounded, or when truncated if none rounds to
    it."""
    unit = 10.0**-digits
    differences = [(right, 100 * right / total - percent) for right in range(total + 1)]
    rounded = [right for right, difference in differences if abs(difference) <= unit / 2 + 1e-9]
    return rounded or [right for right, difference in differences if 0 <= difference < unit]


def one(percent: float, total: int, *, digits: int) -> int:
    """Return a number of right pairs that prints as this percentage, or the nearest number where none does."""
    nearest = min(range(total + 1), key=lambda right: abs(100 * right / total - percent))
    return [*counts(percent, total, digits=digits), nearest][0]


def digits_of(row: Sequence[float]) -> int:
    """Return the largest number of decimals in a row of the table."""
    return max(len(f"{value}".partition(".")[2].rstrip("0")) for value in row)


def items(name: str, groups: Mapping[str, int], label: str) -> list[Item]:
    """Build `groups[label]` pairs of every label; VL-RewardBench repeats the last ids of mathverse."""
    pairs: list[Item] = []
    for group, number in groups.items():
        for index in range(number):
            repeated = (name, group) == ("vl_rewardbench", "mathverse") and index >= number - TWICE
            item_id = f"{group}-{index - TWICE if repeated else index}"
            labels = {label: group}
            pairs.append(Item(len(pairs), item_id, "?", ("a", "b"), (0,), (1,), item_id, labels=labels))
    return pairs


def judge(items_to_judge: Sequence[Item], right: Mapping[str, int], label: str) -> list[JudgedItem]:
    """Mark the first `right[label]` items of every label as right and the others as wrong."""
    remaining = dict(right)
    judged = []
    for item in items_to_judge:
        remaining[item.labels[label]] -= 1
        judged.append(JudgedItem(item, Outcome(correct=remaining[item.labels[label]] >= 0)))
    return judged


def vl_rewardbench(printed: Mapping[str, float], *, scheme: str, once: bool, digits: int) -> list[JudgedItem]:
    """Build outcomes whose category counts print as the table.

    Where no count prints as a category, the search takes the count that fits Overall and Macro best. With `once` the
    pairs with a repeated id are excluded from the totals.
    """
    groups = VL | ({"mathverse": VL["mathverse"] - TWICE} if once else {})
    sizes = {name: sum(groups[source] for source in sources) for name, sources in SCHEMES[scheme].items()}
    candidates = {name: counts(printed[name], total, digits=digits) for name, total in sizes.items()}
    # No count of 448 rounds to the misprint 76.7, and the count that truncates to it does not fit the row's Overall.
    choices = [
        right if abs(100 * right[0] / sizes[name] - printed[name]) <= 0.5 * 10.0**-digits + 1e-9 else range(sizes[name])
        for name, right in candidates.items()
    ]

    def deviation(right: Sequence[int]) -> float:
        macro = sum(count / total for count, total in zip(right, sizes.values(), strict=True)) / 3
        return abs(100 * sum(right) / sum(sizes.values()) - printed["overall"]) + abs(100 * macro - printed["macro"])

    best = dict(zip(sizes, min(itertools.product(*choices), key=deviation), strict=True))
    right: dict[str, int] = {}
    for category, sources in SCHEMES[scheme].items():
        for source in sources:
            right[source] = min(best[category], groups[source])
            best[category] -= right[source]
    return judge(items("vl_rewardbench", VL, "source"), right, "source")


def multimodal(printed: Mapping[str, float], *, digits: int) -> list[list[JudgedItem]]:
    """Build outcomes for every combination of counts that prints as the seven categories; two counts of 1,198 may print
    alike."""
    choices = [counts(printed[name], total, digits=digits) for name, total in MULTIMODAL.items()]
    dataset_items = items("multimodal_rewardbench", MULTIMODAL, "category")
    return [
        judge(dataset_items, dict(zip(MULTIMODAL, combination, strict=True)), "category")
        for combination in itertools.product(*choices)
    ]


def mm_rlhf(printed: Mapping[str, float], *, digits: int) -> list[JudgedItem]:
    """Build outcomes with the printed counts of pairs and prompts; without printed categories the errors are spread
    evenly."""
    categories = {name: size for name, size in MM_RLHF.items() if name in printed}
    wrong = {name: pairs - one(printed[name], pairs, digits=digits) for name, (pairs, _) in categories.items()}
    if not categories:
        wrong = dict.fromkeys(MM_RLHF, 0)
        for _, name in zip(range(170 - one(printed["acc"], 170, digits=digits)), itertools.cycle(MM_RLHF)):
            wrong[name] += 1
    prompts = 46 - one(printed["acc_plus"], 46, digits=digits)
    wrong_by_prompt = _spread(wrong, prompts)
    judged: list[JudgedItem] = []
    for name, (pairs, number) in MM_RLHF.items():
        sizes = [pairs // number + (place < pairs % number) for place in range(number)]
        for place, size in enumerate(sizes):
            for index in range(size):
                prompt = f"{name}-{place}"
                item = Item(len(judged), f"{prompt}-{index}", "?", ("a", "b"), (0,), (1,), prompt, {"category": name})
                judged.append(JudgedItem(item, Outcome(correct=index >= wrong_by_prompt[name][place])))
    return judged


def _spread(wrong: Mapping[str, int], prompts: int) -> dict[str, list[int]]:
    """Distribute the wrong pairs over prompts so that exactly `prompts` prompts have a wrong pair."""
    wrong_by_prompt, sizes = {}, {}
    for name, (pairs, number) in MM_RLHF.items():
        sizes[name] = [pairs // number + (place < pairs % number) for place in range(number)]
        remaining, wrong_by_prompt[name] = wrong[name], [0] * number
        for place, size in enumerate(sizes[name]):  # as few prompts as possible
            wrong_by_prompt[name][place] = min(remaining, size)
            remaining -= wrong_by_prompt[name][place]
    for name in wrong_by_prompt:
        while (
            sum(map(bool, itertools.chain(*wrong_by_prompt.values()))) < prompts
            and 0 in wrong_by_prompt[name]
            and max(wrong_by_prompt[name]) > 1
        ):
            wrong_by_prompt[name][wrong_by_prompt[name].index(max(wrong_by_prompt[name]))] -= 1
            wrong_by_prompt[name][wrong_by_prompt[name].index(0)] += 1
    assert sum(map(bool, itertools.chain(*wrong_by_prompt.values()))) == prompts
    return wrong_by_prompt


def evaluations(table: Mapping[str, Any], row: str) -> dict[str, list[JudgedItem]]:
    """Build the outcomes of a row for every benchmark of the table."""
    values = table["rows"][row]
    by_benchmark: dict[str, dict[str, float]] = {}
    for column, value in zip(table["columns"].values(), values, strict=True):
        by_benchmark.setdefault(column["benchmark"], {})[column["metric"]] = value
    outcomes: dict[str, list[JudgedItem]] = {}
    digits = digits_of(values)
    for benchmark, printed in by_benchmark.items():
        if benchmark == "vl_rewardbench":
            swapped = row.startswith("BaseReward")
            if swapped:  # Table 9 swaps these two columns in these rows
                printed = printed | {"general": printed["reasoning"], "reasoning": printed["general"]}
            official = row in ("Gemini-1.5-Pro", "IXC-2.5-Reward 7B")
            once = row in ("BaseReward (Qwen2-VL)", "BaseReward (Ensemble)")
            scheme = "official" if official else "r1_reward"
            outcomes[benchmark] = vl_rewardbench(printed, scheme=scheme, once=once, digits=digits)
        elif benchmark == "mm_rlhf_rewardbench":
            outcomes[benchmark] = mm_rlhf(printed, digits=digits)
        else:
            outcomes[benchmark] = _nearest(multimodal(printed, digits=digits), printed["overall"])
    return outcomes


def _nearest(candidates: Sequence[list[JudgedItem]], overall: float) -> list[JudgedItem]:
    """Return the outcomes whose accuracy over pairs is nearest to the printed overall value."""
    return min(candidates, key=lambda judged: abs(100 * sum(item.is_right for item in judged) / len(judged) - overall))
