"""With the outcomes of the paper's models the page of an experiment shows the paper's tables, number by number."""

from __future__ import annotations

import html
import itertools
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from basereward.evaluate.experiment_report.make import make_page
from basereward.evaluate.items import Item, Judged, Outcome
from basereward.evaluate.protocols.mm_rlhf_rewardbench import MMRLHFRewardBench
from basereward.evaluate.protocols.multimodal_rewardbench import MultimodalRewardBench
from basereward.evaluate.protocols.vl_rewardbench import VLRewardBench
from basereward.recipe import load_experiment
from tests.experiment_runs import finished_run, write_measures, written_recipe

ROOT = Path(__file__).parents[2]
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
# The rows whose every number some count gives, or is known to be a misprint; those of judges whose votes were averaged
# have none.
OURS = ("BaseReward (Qwen2-VL)", "BaseReward (Qwen2.5-VL)", "BaseReward (Ensemble)")
ROWS: dict[int, tuple[str, ...] | None] = {
    2: None,
    8: None,
    9: ("Gemini-1.5-Pro", "MM-RLHF-Reward 7B", "IXC-2.5-Reward 7B", "R1-Reward 7B", *OURS),
    10: ("Gemini 1.5 Pro", "Claude 3.5 Sonnet", "InternVL3 8B", "MM-RLHF-Reward 7B", "R1-Reward 7B", *OURS),
}
MISPRINTS = {
    2: {("1 layer", "acc_plus"), ("2 layers, Tanh", "vl_hallucination"), ("2 layers, Tanh", "acc")}
    | {("3 layers, SiLU", "vl_overall"), ("3 layers, SiLU", "vl_macro")},
    8: {("BaseReward (Qwen2.5-VL)", name) for name in ("mcq", "long", "short")}
    | {("GPT-4o (2024-08-06)", "acc_plus"), ("Claude-3.5-Sonnet", "acc_plus")},
    9: {("MM-RLHF-Reward 7B", "overall")},
    10: {("BaseReward (Qwen2-VL)", "overall"), ("BaseReward (Ensemble)", "overall")},
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


def judge(of: Sequence[Item], right: Mapping[str, int], label: str) -> list[Judged]:
    """The first so many of each label are right."""
    left = dict(right)
    judged = []
    for each in of:
        left[each.labels[label]] -= 1
        judged.append(Judged(each, Outcome(correct=left[each.labels[label]] >= 0)))
    return judged


def vl_rewardbench(printed: Mapping[str, float], *, scheme: str, once: bool, digits: int) -> list[Judged]:
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


def multimodal(printed: Mapping[str, float], *, digits: int) -> list[list[Judged]]:
    """Every combination of counts that prints as the seven categories: of 1,198 pairs two numbers may."""
    choices = [counts(printed[name], total, digits=digits) for name, total in MULTIMODAL.items()]
    of = items("multimodal_rewardbench", MULTIMODAL, "category")
    return [judge(of, dict(zip(MULTIMODAL, each, strict=True)), "category") for each in itertools.product(*choices)]


def mm_rlhf(printed: Mapping[str, float], *, digits: int) -> list[Judged]:
    """Outcomes with the counts of pairs and of prompts: where the table has no categories, anywhere."""
    categories = {name: size for name, size in MM_RLHF.items() if name in printed}
    wrong = {name: pairs - one(printed[name], pairs, digits=digits) for name, (pairs, _) in categories.items()}
    if not categories:
        wrong = dict.fromkeys(MM_RLHF, 0)
        for _, name in zip(range(170 - one(printed["acc"], 170, digits=digits)), itertools.cycle(MM_RLHF)):
            wrong[name] += 1
    prompts = 46 - one(printed["acc_plus"], 46, digits=digits)
    spoilt = _spread(wrong, prompts)
    judged: list[Judged] = []
    for name, (pairs, number) in MM_RLHF.items():
        sizes = [pairs // number + (place < pairs % number) for place in range(number)]
        for place, size in enumerate(sizes):
            for index in range(size):
                prompt = f"{name}-{place}"
                item = Item(len(judged), f"{prompt}-{index}", "?", ("a", "b"), (0,), (1,), prompt, {"category": name})
                judged.append(Judged(item, Outcome(correct=index >= spoilt[name][place])))
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


def evaluations(table: Mapping[str, Any], row: str) -> dict[str, list[Judged]]:
    """By benchmark, outcomes from which a row's numbers are counted."""
    values = table["rows"][row]
    by_benchmark: dict[str, dict[str, float]] = {}
    for column, value in zip(table["columns"].values(), values, strict=True):
        by_benchmark.setdefault(column["benchmark"], {})[column["metric"]] = value
    found: dict[str, list[Judged]] = {}
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


def _nearest(candidates: Sequence[list[Judged]], overall: float) -> list[Judged]:
    """The outcomes whose accuracy over pairs is nearest to what is printed."""
    return min(candidates, key=lambda each: abs(100 * sum(one.is_right for one in each) / len(each) - overall))


@pytest.fixture
def experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's experiments, to which a test may add."""
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(tmp_path / "experiments"))
    return tmp_path / "experiments"


def paper_rows(document: str) -> dict[str, dict[str, dict[str, str]]]:
    """By printed row, `paper` and `ours`: the cell of every column as HTML."""
    section = re.search(r'<section id="paper">.*?</section>', document, flags=re.DOTALL)
    assert section
    shown: dict[str, dict[str, dict[str, str]]] = {}
    for body in re.findall(r"<tbody>(.*?)</tbody>", section[0], flags=re.DOTALL):
        title = html.unescape(re.sub(r"<sup.*?</sup>|<[^>]*>", "", re.findall(r"<th[^>]*>.*?</th>", body)[0]))
        lines = re.findall(r'<tr class="(paper|ours)">(.*?)</tr>', body, flags=re.DOTALL)
        shown[title] = {
            kind: {name: cell for cell, name in re.findall(r'(<td[^>]*data-column="(\w+)".*?</td>)', line)}
            for kind, line in lines
        }
    return shown


def reproduces(ours: str, printed: float, *, digits: int) -> bool:
    """Whether our cell shows the printed number, or one that was cut off where ours is rounded."""
    text = re.search(r">([\d.]+)<", ours)
    value = re.search(r'data-value="([\d.]+)"', ours)
    assert text
    assert value
    assert text[1] == f"{100 * float(value[1]):.{digits}f}"
    cut_off = int(100 * float(value[1]) * 10**digits + 1e-4) / 10**digits
    return printed in (float(text[1]), cut_off)


@pytest.mark.parametrize("number", ROWS)
def test_the_tables_come_back_and_misprints_are_marked(number: int, experiments: Path, tmp_path: Path) -> None:
    """Every number of ours is the printed one, to its last digit, but where no outcomes give it; exactly these cells
    have the mark of a misprint."""
    file = experiments / "published" / f"basereward_table_{number}.yaml"
    table = yaml.safe_load(file.read_text())
    rows = ROWS[number] or list(table["rows"])
    names = {row: f"row_{place}" for place, row in enumerate(rows)}
    grid = {"optimizer.lr": {name: 0.001 * (1 + place) for place, name in enumerate(names.values())}}
    written_recipe(experiments, "paper_rows", {"include": "basereward", "grid": grid})
    told = table | {"experiment": "paper_rows", "cells": {row: f"lr={name}" for row, name in names.items()}}
    file.write_text(yaml.safe_dump(told, sort_keys=False))
    cells = {cell.name: cell for cell in load_experiment("paper_rows").cells}
    for row, name in names.items():
        run = finished_run(cells[f"lr={name}"])
        for benchmark, judged in evaluations(table, row).items():
            write_measures(run, benchmark, PROTOCOLS[benchmark].variants, judged)
    out = tmp_path / "page.html"
    make_page("paper_rows", profile="tiny", overrides=(), out=out)

    shown = paper_rows(out.read_text(encoding="utf-8"))
    differing, marked = set(), set()
    for row in rows:
        digits = digits_of(table["rows"][row])
        for column, printed in zip(table["columns"], table["rows"][row], strict=True):
            theirs, mine = shown[row]["paper"][column], shown[row]["ours"][column]
            assert f">{printed:.{digits}f}<" in theirs
            if not reproduces(mine, printed, digits=digits):
                differing.add((row, column))
            if 'class="mark misprint"' in theirs:
                marked.add((row, column))
    assert differing == marked == MISPRINTS[number]
