"""A few rows of every benchmark in its published columns, in words of our own."""

from __future__ import annotations

from typing import Any

from basereward.evaluation.protocols.rewardbench import PRIOR_SETS, SECTIONS

Row = dict[str, Any]


def multimodal_rewardbench(name: str, category: str, *, better: str = "Output2") -> Row:
    """A pair of Multimodal RewardBench, as its ready-made copy and its release have them."""
    answers = {"Output1": "A cup.", "Output2": "A jar with a lid."}
    return {"ID": name, "Text": "What is it?", "Image": "1.png", **answers, "Better": better, "Category": category}


def rewardbench(subset: str, *, number: int = 0, prompt: Any = None) -> Row:
    """A pair of RewardBench; the first answer is chosen."""
    models = {"chosen_model": "ours", "rejected_model": "ours"}
    answers = {"prompt": prompt or f"Question {number}?", "chosen": "Yes, that is so.", "rejected": "No."}
    return {**answers, **models, "subset": subset, "id": number}


def rewardbench_2(name: str, subset: str, *, right: int = 1, wrong: int = 3) -> Row:
    """A prompt of RewardBench 2 with its lists of answers."""
    answers = {"chosen": [f"Right {i}." for i in range(right)], "rejected": [f"Wrong {i}." for i in range(wrong)]}
    counts = {"num_correct": right, "num_incorrect": wrong, "total_completions": right + wrong}
    return {"id": name, "prompt": "Name a colour.", **answers, **counts, "subset": subset}


def rm_bench(name: str, domain: str) -> Row:
    """A prompt of RM-Bench with its answers in three styles."""
    styles = ("Short.", "Rather long.", "## Long\n- and in Markdown")
    answers = {"chosen": [f"{each} Right." for each in styles], "rejected": [f"{each} Wrong." for each in styles]}
    return {"id": name, "prompt": "Is it so?", **answers, "domain": domain}


def judgebench(name: str, source: str, *, label: str = "B>A") -> Row:
    """A pair of JudgeBench."""
    answers = {"response_A": "It is 4.", "response_B": "It is 5."}
    about = {"pair_id": name, "original_id": f"of {name}", "source": source, "response_model": "ours"}
    return {**about, "question": "How many?", **answers, "label": label}


def multimodal_rewardbench_2(name: str, *, chosen: str = "A", drawn: bool = False) -> Row:
    """A pair of Multimodal RewardBench 2; `drawn`: with a picture in the first answer."""
    about = {"pair_id": name, "prompt_source": "blink", "prompt_metadata": "{}", "human_annotations": "[]"}
    prompt = {"prompt_text": "<image_0> and <image_1>: which is nearer?", "prompt_images": ["1.png", "2.png"]}
    answers = {"response_a_text": "The cup.", "response_a_images": ["3.png"] if drawn else [], "response_a_model": "a"}
    other = {"response_b_text": "The jar.", "response_b_images": [], "response_b_model": "b"}
    return {**about, **prompt, **answers, **other, "chosen": chosen}


def _vl_rewardbench(name: str, ranking: list[int]) -> Row:
    return {"id": name, "query": "What?", "response": ["A.", "B."], "human_ranking": ranking, "image": "1.png"}


MULTIMODAL_CATEGORIES = (
    ("visit-1", "open_generation/correctness_task"),
    ("nocaps-1", "open_generation/preference_task"),
    ("mmmu-1", "knowledge"),
    ("MathVista-1", "reasoning"),
    ("emma-1", "reasoning"),
    ("PAIRS-1", "safety"),
    ("seed-1", "vqa"),
)
SUBSETS = [*(name for section in SECTIONS.values() for name in section), *PRIOR_SETS]
ROWS: dict[str, list[Row]] = {  # by protocol
    "vl_rewardbench": [_vl_rewardbench("mmmu-1", [0, 1]), _vl_rewardbench("RLAIF-V-2", [1, 0])],
    "mm_rlhf_rewardbench": [
        {"id": 1, "prompt": "What?", "chosen": "A cup.", "rejected": "A jar.", "image": "images/mcq/1.png"}
    ],
    "multimodal_rewardbench": [multimodal_rewardbench(*each) for each in MULTIMODAL_CATEGORIES],
    "rewardbench": [rewardbench(subset, number=number) for number, subset in enumerate(SUBSETS)],
    "rewardbench_2": [
        *(
            rewardbench_2(str(i), name)
            for i, name in enumerate(("Factuality", "Precise IF", "Math", "Safety", "Focus"))
        ),
        rewardbench_2("tied:1", "Ties", right=5, wrong=2),
        rewardbench_2("ref:1", "Ties", right=1, wrong=4),
    ],
    "rm_bench": [
        rm_bench(str(i), name) for i, name in enumerate(("chat", "code", "math", "safety-refuse", "safety-response"))
    ],
    "judgebench": [
        judgebench("1", "mmlu-pro-law"),
        judgebench("2", "livebench-reasoning", label="A>B"),
        judgebench("3", "livebench-math"),
        judgebench("4", "livecodebench"),
    ],
    "multimodal_rewardbench_2": [
        multimodal_rewardbench_2("1"),
        multimodal_rewardbench_2("2", chosen="B", drawn=True),
    ],
}
