"""Rows in the layouts of published benchmarks, made from the embedded digits and questions about numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from basereward.data.schema.group import Group
from basereward.data.sources.digits import Digits
from basereward.data.sources.numbers import Numbers
from basereward.evaluation.protocols.mm_rlhf_rewardbench import CATEGORIES as MM_RLHF_CATEGORIES
from basereward.evaluation.protocols.rewardbench import SECTIONS
from basereward.evaluation.protocols.rm_bench import STORED_DOMAINS

# How ids begin in VL-RewardBench; the protocol makes categories of them.
VL_IDS = ("hallucination_pair-", "RLAIF-V-", "RLHF-V-", "wildvision-", "mathverse_", "mmmu_pro-")
# Category and beginning of the id in Multimodal RewardBench, one for each of its seven columns.
MMRB_KINDS = (
    ("open_generation/correctness_task", "correctness-"),
    ("open_generation/preference_task", "preference-"),
    ("knowledge", "knowledge-"),
    ("reasoning", "mathvista-"),
    ("reasoning", "emma-"),
    ("safety", "pairs-"),
    ("vqa", "vqa-"),
)
SAMPLES = 8
"""Responses of a policy to one prompt, for best-of-N up to this number."""


@dataclass(frozen=True)
class MadeItem:
    """What the row of a stand-in is made of.

    >>> MadeItem(3, 1, "Read the digit.", ("7", "It is a 7."), ("1",), None).pair
    ('It is a 7.', '1')
    """

    number: int
    """position of the row, from 0"""
    prompt_number: int
    """equal for the rows of one prompt"""
    prompt: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    picture: str | None
    """path of the picture in the folder of the stand-in; None: text alone"""

    @property
    def pair(self) -> tuple[str, str]:
        """A right and a wrong response; the rows of one prompt have different ones."""
        return self.right[self.number % len(self.right)], self.wrong[self.number % len(self.wrong)]


@dataclass(frozen=True)
class StandInLayout:
    """How a benchmark stores its rows.

    >>> LAYOUTS["rm_bench"].picture is None
    True
    """

    row: Callable[[MadeItem], dict[str, Any]]
    picture: Callable[[int], str] | None
    """the path of the picture of a prompt, from its number; None: the benchmark is text alone"""
    rows_of_prompt: int = 1


def _vl_rewardbench(item: MadeItem) -> dict[str, Any]:
    right, wrong = item.pair
    return {
        "id": f"{VL_IDS[item.number % len(VL_IDS)]}{item.number}",
        "query": item.prompt,
        "response": [right, wrong],
        "human_ranking": [0, 1],
        "image": item.picture,
    }


def _mm_rlhf_rewardbench(item: MadeItem) -> dict[str, Any]:
    right, wrong = item.pair
    column = "video" if str(item.picture).startswith("video") else "image"
    pair = {"prompt": item.prompt, "chosen": right, "rejected": wrong}
    return {"id": f"prompt-{item.prompt_number}", **pair, column: item.picture}


def _mm_rlhf_picture(prompt_number: int) -> str:
    """A file in the folder of its category; of the category `video` a folder of frames."""
    category = MM_RLHF_CATEGORIES[prompt_number % len(MM_RLHF_CATEGORIES)]
    return f"{category}/{prompt_number}" if category == "video" else f"images/{category}/{prompt_number}.png"


def _multimodal_rewardbench(item: MadeItem) -> dict[str, Any]:
    right, wrong = item.pair
    category, beginning = MMRB_KINDS[item.number % len(MMRB_KINDS)]
    # Half of the better responses are stored second, as in the released rows.
    better = 1 + item.number // len(MMRB_KINDS) % 2
    first, second = (right, wrong) if better == 1 else (wrong, right)
    responses = {"Output1": first, "Output2": second, "Better": f"Output{better}"}
    head = {"ID": f"{beginning}{item.number}", "Category": category, "Text": item.prompt, "Image": item.picture}
    return head | responses


def _rewardbench(item: MadeItem) -> dict[str, Any]:
    right, wrong = item.pair
    subsets = list(chain(*SECTIONS.values()))
    subset = subsets[item.number % len(subsets)]
    return {"id": item.number, "prompt": item.prompt, "chosen": right, "rejected": wrong, "subset": subset}


def _rm_bench(item: MadeItem) -> dict[str, Any]:
    right, wrong = item.pair
    domain = STORED_DOMAINS[item.number % len(STORED_DOMAINS)]
    responses = {"chosen": _styles(right), "rejected": _styles(wrong)}
    return {"id": f"{domain}-{item.number}", "prompt": item.prompt, "domain": domain, **responses}


def _styles(response: str) -> list[str]:
    """A response in the three styles of RM-Bench: concise, detailed, and detailed in Markdown."""
    return [response, f"{response} I compared them one by one.", f"**{response}**\n\n- I compared them *one by one*."]


def _best_of_n(item: MadeItem) -> dict[str, Any]:
    # Prompts differ in how often the policy is right, as the prompts of a real policy do.
    rng = random.Random(f"stand_in/best_of_n/{item.number}")
    share = rng.random()
    right = [rng.random() < share for _ in range(SAMPLES)]
    responses = [rng.choice(item.right if is_right else item.wrong) for is_right in right]
    head = {"id": f"prompt-{item.number}", "prompt": item.prompt, "image": item.picture}
    return head | {"responses": responses, "right": right}


def _picture(prompt_number: int) -> str:
    return f"images/{prompt_number}.png"


LAYOUTS: Mapping[str, StandInLayout] = {
    "vl_rewardbench": StandInLayout(_vl_rewardbench, _picture),
    "mm_rlhf_rewardbench": StandInLayout(_mm_rlhf_rewardbench, _mm_rlhf_picture, rows_of_prompt=3),
    "multimodal_rewardbench": StandInLayout(_multimodal_rewardbench, _picture),
    "rewardbench": StandInLayout(_rewardbench, None),
    "rm_bench": StandInLayout(_rm_bench, None),
    "best_of_n": StandInLayout(_best_of_n, _picture),
}
"""By protocol."""


def embedded_groups(layout: StandInLayout) -> Sequence[Group]:
    """The held-out groups that rows are made of: scanned digits, or questions about numbers.

    No profile of ours trains on them, because the split of a scan or of a set of numbers depends on its seed alone.

    >>> len(embedded_groups(LAYOUTS["vl_rewardbench"])), len(embedded_groups(LAYOUTS["rm_bench"]))
    (250, 300)
    """
    return Digits("digits").groups("test") if layout.picture else Numbers("numbers").groups("test")


def made_items(layout: StandInLayout, number: int) -> list[MadeItem]:
    """What the rows of a stand-in are made of.

    Args:
        layout: of the benchmark.
        number: of rows.

    >>> [item.prompt_number for item in made_items(LAYOUTS["mm_rlhf_rewardbench"], 5)]
    [0, 0, 0, 1, 1]
    """
    groups = embedded_groups(layout)
    items: list[MadeItem] = []
    for place in range(number):
        prompt_number = place // layout.rows_of_prompt
        group = groups[prompt_number]
        right = sorted({preference.winner for preference in group.preferences})
        wrong = sorted({preference.loser for preference in group.preferences})
        items.append(
            MadeItem(
                place,
                prompt_number,
                "".join(part.text for part in group.prompt[0].parts if part.text is not None),
                tuple(group.responses[index] for index in right),
                tuple(group.responses[index] for index in wrong),
                layout.picture(prompt_number) if layout.picture else None,
            )
        )
    return items
