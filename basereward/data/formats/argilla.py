"""Formats of argilla, distilabel and UltraFeedback.

https://huggingface.co/argilla, https://huggingface.co/datasets/openbmb/UltraFeedback
"""

from __future__ import annotations

from typing import Any

from basereward.data.adapters.text.ultra_feedback import UltraFeedback
from basereward.data.formats import Cells, Format


def _responses(row: Cells) -> dict[str, Any]:
    return {
        "prompt": row["instruction"],
        "chosen": row["chosen_response"],
        "rejected": row["rejected_response"],
        "chosen_rating": row.get("chosen_avg_rating"),
        "rejected_rating": row.get("rejected_avg_rating"),
    }


def _generations(row: Cells) -> dict[str, Any]:
    prompt = "instruction" if row.get("instruction") is not None else "prompt"
    return {"prompt": row[prompt], "responses": row["generations"], "ratings": row["ratings"]}


def _has_prompt(row: Cells) -> bool:
    return row.get("instruction") is not None or row.get("prompt") is not None


def _completions(row: Cells) -> dict[str, Any]:
    return UltraFeedback()(row)


def _have_scores(row: Cells) -> bool:
    completions = row["completions"]
    if not isinstance(completions, list):
        return False
    return any(isinstance(completion, dict) and "overall_score" in completion for completion in completions)


RESPONSES = Format(
    "argilla",
    "argilla",
    ("instruction", "chosen_response", "rejected_response"),
    convert=_responses,
    names={"chosen_rating": "chosen_avg_rating", "rejected_rating": "rejected_avg_rating"},
    note="with `chosen_avg_rating` and `rejected_avg_rating`",
    example={
        "instruction": "2 + 2?",
        "chosen_response": "4",
        "rejected_response": "5",
        "chosen_avg_rating": 5.0,
        "rejected_avg_rating": 1.5,
    },
)
GENERATIONS = Format(
    "distilabel",
    "distilabel",
    ("generations", "ratings"),
    absent=("chosen", "rejected"),
    matches=_has_prompt,
    convert=_generations,
    note="with `instruction` or `prompt`; ranked by the ratings",
    example={"instruction": "2 + 2?", "generations": ["5", "4"], "ratings": [1, 5]},
)
ULTRA_FEEDBACK = Format(
    "ultra_feedback",
    "UltraFeedback",
    ("instruction", "completions"),
    matches=_have_scores,
    convert=_completions,
    nested={"completions": ("response", "overall_score")},
    annotated=("completions",),
    note="every two completions with unequal `overall_score`",
    example={
        "instruction": "2 + 2?",
        "completions": [{"response": "5", "overall_score": 2.0}, {"response": "4", "overall_score": 9.0}],
    },
)
