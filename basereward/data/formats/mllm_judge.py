"""Formats of MLLM-as-a-Judge (arXiv 2402.04788): two answers with a verdict, or several with an order.

https://github.com/Dongping-Chen/MLLM-Judge
"""

from __future__ import annotations

import string
from typing import Any

from basereward.data.formats import Cells, Format
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected

# The ranks of the two answers; C is a tie.
VERDICTS = {"A": [0, 1], "B": [1, 0], "C": [0, 0]}


def _pair(row: Cells) -> dict[str, Any]:
    verdict = row["human_answer"]
    if verdict not in VERDICTS:
        raise RowRejected("not_rated", f"`human_answer` is {shown(verdict)}; allowed: A, B, and C for a tie")
    answers = [_answer(row[name], name=name) for name in ("answer1", "answer2")]
    return {"prompt": row["instruction"], "responses": answers, "ranking": VERDICTS[verdict]}


def _batch(row: Cells) -> dict[str, Any]:
    answers = row["answers"]
    if not isinstance(answers, list):
        raise RowRejected("wrong_type", f"`answers` is {shown(answers)}; a list of answers is needed")
    order = row["human_answer"]
    letters = string.ascii_uppercase[: len(answers)]
    if not isinstance(order, str) or sorted(order) != list(letters):
        raise RowRejected(
            "bad_ranking", f"`human_answer` is {shown(order)}; the letters {letters} are needed, the best answer first"
        )
    texts = [_answer(answer, name=f"answers[{i}]") for i, answer in enumerate(answers)]
    return {"prompt": row["instruction"], "responses": texts, "ranking": [order.index(letter) for letter in letters]}


def _answer(answer: object, *, name: str) -> object:
    if not isinstance(answer, dict) or "answer" not in answer:
        raise RowRejected("wrong_type", f'`{name}` is {shown(answer)}; {{"name": ..., "answer": ...}} is needed')
    return answer["answer"]


PAIR = Format(
    "mllm_judge_pair",
    "MLLM-as-a-Judge, pairs",
    ("instruction", "answer1", "answer2", "human_answer"),
    convert=_pair,
    nested={"answer1": ("name", "answer"), "answer2": ("name", "answer")},
    note="`human_answer` is A, B, or C for a tie",
    example={
        "instruction": "2 + 2?",
        "answer1": {"name": "a", "answer": "4"},
        "answer2": {"name": "b", "answer": "5"},
        "human_answer": "A",
    },
)
BATCH = Format(
    "mllm_judge_batch",
    "MLLM-as-a-Judge, rankings",
    ("instruction", "answers", "human_answer"),
    convert=_batch,
    nested={"answers": ("name", "answer")},
    note="`human_answer` has one letter for each answer, the best first",
    example={
        "instruction": "2 + 2?",
        "answers": [{"name": "a", "answer": "5"}, {"name": "b", "answer": "4"}, {"name": "c", "answer": "22"}],
        "human_answer": "BAC",
    },
)
