"""Right and wrong answers of the paper's models: outcomes from which the benchmarks' own counting gives its tables."""

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
# Pairs of every category; of VL-RewardBench by the sources that the schemes make categories of.
VL = {"wildvision": 183, "RLAIF": 301, "hallucination": 448, "mathverse": 318}
TWICE = 25  # pairs of reasoning whose id comes a second time
MULTIMODAL = dict(correctness=623, preference=654, knowledge=630, math=514, coding=584, safety=508, vqa=1198)
MM_RLHF = dict(mcq=(42, 10), long=(37, 10), short=(34, 10), safety=(32, 6), video=(25, 10))  # pairs, prompts
SCHEMES = {
    "official": dict(general=["wildvision"], hallucination=["RLAIF", "hallucination"], reasoning=["mathverse"]),
    "r1_reward": dict(general=["wildvision", "RLAIF"], hallucination=["hallucination"], reasoning=["mathverse"]),
}


def counts(percent: float, total: int, *, digits: int) -> list[int]:
    """Numbers of right ones that print as this percentage: rounded, or where none does, cut off."""
    unit = 10.0**-digits
    exact = [(right, 100 * right / total - percent) for right in range(total + 1)]
    rounded = [right for right, off in exact if abs(off) <= unit / 2 + 1e-9]
    return rounded or [right for right, off in exact if 0 <= off < unit]


def one(percent: float, total: int, *, digits: int) -> int:
    """The number that prints as this percentage, or the nearest where none does."""
    nearest = min(range(total + 1), key=lambda right: abs(100 * right / total - percent))
    return [*counts(percent, total, digits=digits), nearest][0]


def digits_of(row: Sequence[float]) -> int:
    """After the point of a row's numbers."""
    return max(len(f"{value}".partition(".")[2].rstrip("0")) for value in row)


def items(name: str, groups: Mapping[str, int], label: str) -> list[Item]:
    """So many pairs of every label; ids of mathverse come twice where VL-RewardBench has them twice."""
    found: list[Item] = []
    for group, number in groups.items():
        for index in range(number):
            again = (name, group) == ("vl_rewardbench", "mathverse") and index >= number - TWICE
            place = f"{group}-{index - TWICE if again else index}"
            labels = {label: group}
            found.append(Item(len(found), place, "?", ("a", "b"), (0,), (1,), place, labels=labels))
    return found


def judge(of: Sequence[Item], right: Mapping[str, int], label: str) -> list[JudgedItem]:
    """The first so many of each label are right."""
    left = dict(right)
    judged = []
    for each in of:
        left[each.labels[label]] -= 1
        judged.append(JudgedItem(each, Outcome(correct=left[each.labels[label]] >= 0)))
    return judged


def vl_rewardbench(printed: Mapping[str, float], *, scheme: str, once: bool, digits: int) -> list[JudgedItem]:
    """Outcomes with the categories' counts, and where no count prints as one, with that which Overall and Macro ask
    for; with `once` the pairs whose id comes again are left out of them."""
    groups = VL | ({"mathverse": VL["mathverse"] - TWICE} if once else {})
    sizes = {name: sum(groups[source] for source in sources) for name, sources in SCHEMES[scheme].items()}
    found = {name: counts(printed[name], total, digits=digits) for name, total in sizes.items()}
    # Of 448 none rounds to the misprint 76.7, and the one that it would be cut off from is not what the row adds up to.
    choices = [
        right if abs(100 * right[0] / sizes[name] - printed[name]) <= 0.5 * 10.0**-digits + 1e-9 else range(sizes[name])
        for name, right in found.items()
    ]

    def off(right: Sequence[int]) -> float:
        macro = sum(each / total for each, total in zip(right, sizes.values(), strict=True)) / 3
        return abs(100 * sum(right) / sum(sizes.values()) - printed["overall"]) + abs(100 * macro - printed["macro"])

    best = dict(zip(sizes, min(itertools.product(*choices), key=off), strict=True))
    right: dict[str, int] = {}
    for category, sources in SCHEMES[scheme].items():
        for source in sources:
            right[source] = min(best[category], groups[source])
            best[category] -= right[source]
    return judge(items("vl_rewardbench", VL, "source"), right, "source")


def multimodal(printed: Mapping[str, float], *, digits: int) -> list[list[JudgedItem]]:
    """Every combination of counts that prints as the seven categories: of 1,198 pairs two numbers may."""
    choices = [counts(printed[name], total, digits=digits) for name, total in MULTIMODAL.items()]
    of = items("multimodal_rewardbench", MULTIMODAL, "category")
    return [judge(of, dict(zip(MULTIMODAL, each, strict=True)), "category") for each in itertools.product(*choices)]


def mm_rlhf(printed: Mapping[str, float], *, digits: int) -> list[JudgedItem]:
    """Outcomes with the counts of pairs and of prompts: where the table has no categories, anywhere."""
    categories = {name: size for name, size in MM_RLHF.items() if name in printed}
    wrong = {name: pairs - one(printed[name], pairs, digits=digits) for name, (pairs, _) in categories.items()}
    if not categories:
        wrong = dict.fromkeys(MM_RLHF, 0)
        for _, name in zip(range(170 - one(printed["acc"], 170, digits=digits)), itertools.cycle(MM_RLHF)):
            wrong[name] += 1
    prompts = 46 - one(printed["acc_plus"], 46, digits=digits)
    spoilt = _spread(wrong, prompts)
    judged: list[JudgedItem] = []
    for name, (pairs, number) in MM_RLHF.items():
        sizes = [pairs // number + (place < pairs % number) for place in range(number)]
        for place, size in enumerate(sizes):
            for index in range(size):
                prompt = f"{name}-{place}"
                item = Item(len(judged), f"{prompt}-{index}", "?", ("a", "b"), (0,), (1,), prompt, {"category": name})
                judged.append(JudgedItem(item, Outcome(correct=index >= spoilt[name][place])))
    return judged


def _spread(wrong: Mapping[str, int], prompts: int) -> dict[str, list[int]]:
    """Wrong pairs of every prompt, so that as many prompts as asked have one."""
    found, sizes = {}, {}
    for name, (pairs, number) in MM_RLHF.items():
        sizes[name] = [pairs // number + (place < pairs % number) for place in range(number)]
        left, found[name] = wrong[name], [0] * number
        for place, size in enumerate(sizes[name]):  # as few prompts as may be
            found[name][place] = min(left, size)
            left -= found[name][place]
    for name in found:
        while sum(map(bool, itertools.chain(*found.values()))) < prompts and 0 in found[name] and max(found[name]) > 1:
            found[name][found[name].index(max(found[name]))] -= 1
            found[name][found[name].index(0)] += 1
    assert sum(map(bool, itertools.chain(*found.values()))) == prompts
    return found


def evaluations(table: Mapping[str, Any], row: str) -> dict[str, list[JudgedItem]]:
    """By benchmark, outcomes from which a row's numbers are counted."""
    values = table["rows"][row]
    by_benchmark: dict[str, dict[str, float]] = {}
    for column, value in zip(table["columns"].values(), values, strict=True):
        by_benchmark.setdefault(column["benchmark"], {})[column["metric"]] = value
    found: dict[str, list[JudgedItem]] = {}
    digits = digits_of(values)
    for benchmark, printed in by_benchmark.items():
        if benchmark == "vl_rewardbench":
            ours = row.startswith("BaseReward")
            if ours:  # Table 9 has the two columns of these rows in each other's place
                printed = printed | {"general": printed["reasoning"], "reasoning": printed["general"]}
            official = row in ("Gemini-1.5-Pro", "IXC-2.5-Reward 7B")
            once = row in ("BaseReward (Qwen2-VL)", "BaseReward (Ensemble)")
            scheme = "official" if official else "r1_reward"
            found[benchmark] = vl_rewardbench(printed, scheme=scheme, once=once, digits=digits)
        elif benchmark == "mm_rlhf_rewardbench":
            found[benchmark] = mm_rlhf(printed, digits=digits)
        else:
            found[benchmark] = _nearest(multimodal(printed, digits=digits), printed["overall"])
    return found


def _nearest(candidates: Sequence[list[JudgedItem]], overall: float) -> list[JudgedItem]:
    """The outcomes whose accuracy over pairs is nearest to what is printed."""
    return min(candidates, key=lambda each: abs(100 * sum(one.is_right for one in each) / len(each) - overall))
