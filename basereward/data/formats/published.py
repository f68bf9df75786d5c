"""Formats of published data sets for which there is an adapter (`basereward/data/adapters`)."""

from __future__ import annotations

from typing import Any

from basereward.data.adapters.multimodal.povid import POVID as ReadPovid
from basereward.data.adapters.multimodal.wild_vision import WildVision
from basereward.data.adapters.text.helpsteer3 import HelpSteer3
from basereward.data.adapters.text.pku_saferlhf import PKUSafeRLHF
from basereward.data.adapters.text.shp import SHP as ReadShp
from basereward.data.formats import Cells, Format


def _question(row: Cells) -> dict[str, Any]:
    return {"prompt": row["question"], "chosen": row["chosen"], "rejected": row["rejected"]}


def _povid(row: Cells) -> dict[str, Any]:
    return ReadPovid()(row)


def _shp(row: Cells) -> dict[str, Any]:
    return ReadShp()(row)


def _helpsteer3(row: Cells) -> dict[str, Any]:
    return HelpSteer3()(row)


def _pku(row: Cells) -> dict[str, Any]:
    return PKUSafeRLHF()(row)


def _arena(row: Cells) -> dict[str, Any]:
    if "image" in row:
        return WildVision()(row)
    # Chatbot Arena has the same columns without images.
    cells = {name: row[name] for name in ("conversation_a", "conversation_b", "winner")}
    adapted = WildVision()(cells | {"image": None})
    return {name: cell for name, cell in adapted.items() if name != "image"}


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


RLAIF_V = Format(
    "rlaif_v",
    "RLAIF-V, MMPR",
    ("question", "image", "chosen", "rejected"),
    absent=("prompt", "conversations", "messages", "instruction"),
    convert=_question,
    example={"question": "Which digit?", "image": "0.png", "chosen": "four", "rejected": "seven"},
)
POVID = Format(
    "povid",
    "POVID",
    ("image", "conversations", "rejected_conversations"),
    convert=_povid,
    note="`conversations` is the better one",
    example={
        "image": "0.png",
        "conversations": [{"from": "human", "value": "<image>\nWhich digit?"}, {"from": "gpt", "value": "four"}],
        "rejected_conversations": [
            {"from": "human", "value": "<image>\nWhich digit?"},
            {"from": "gpt", "value": "seven"},
        ],
    },
)
SHP = Format(
    "shp",
    "Stanford Human Preferences",
    ("history", "human_ref_A", "human_ref_B", "labels"),
    convert=_shp,
    note="`labels` is 1 if A is better, 0 if B is",
    example={"history": "Why?", "human_ref_A": "So.", "human_ref_B": "No.", "labels": 1, "score_ratio": 2.0},
)
HELPSTEER3 = Format(
    "helpsteer3",
    "HelpSteer3",
    ("context", "response1", "response2", "overall_preference"),
    convert=_helpsteer3,
    note="`overall_preference` is negative if response 1 is better",
    example={
        "context": [{"role": "user", "content": "2 + 2?"}],
        "response1": "4",
        "response2": "5",
        "overall_preference": -2,
    },
)
PKU = Format(
    "pku_saferlhf",
    "PKU-SafeRLHF",
    ("prompt", "response_0", "response_1", "better_response_id"),
    convert=_pku,
    example={"prompt": "2 + 2?", "response_0": "5", "response_1": "4", "better_response_id": 1},
)
ARENA = Format(
    "arena",
    "WildVision and Chatbot Arena",
    ("conversation_a", "conversation_b", "winner"),
    convert=_arena,
    note="`winner` names the better conversation, or a tie",
    example={
        "conversation_a": _turns("2 + 2?", "4"),
        "conversation_b": _turns("2 + 2?", "5"),
        "winner": "model_a",
    },
)
