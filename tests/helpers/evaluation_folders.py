"""Evaluation folders in the format of `basereward eval` with chosen outcomes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from basereward.evaluation.reports.thumbnails import data_uri
from tests.helpers.support import picture

MEASURE = {"ties": 0, "undecided": 0, "baselines": {"random": 0.5, "longer": 0.426, "shorter": 0.565, "first": 0.996}}


def measure(right: int, total: int, **more: Any) -> dict[str, Any]:
    """Return a share with an arbitrary interval."""
    value = right / total
    bounds = {"low": max(0.0, value - 0.05), "high": min(1.0, value + 0.05), "interval": "wilson"}
    return {"value": value, "numerator": right, "denominator": total, **bounds, **MEASURE, **more}


def item(row: int, correct: bool | None, **more: Any) -> dict[str, Any]:
    """Return a row of two answers with the first one right; row 0 has a picture."""
    margin = None if correct is None else (1.0 + row if correct else -1.0 - row)
    texts = {"prompt": f"question {row}", "responses": ["good", "bad"], "right": [0], "wrong": [1]}
    outcome = {"scores": None if margin is None else [margin, 0.0], "votes": [None] if margin is None else None}
    picture_field = {"picture": data_uri(picture(1), side=64) if row == 0 else None}
    head = {"row": row, "id": f"id {row}", "prompt_id": f"p{row // 2}", "labels": {"source": "povid"}}
    return {**head, **texts, **outcome, "correct": correct, "tie": False, "margin": margin, **picture_field, **more}


def write_folder(folder: Path, outcomes: Sequence[bool | None], **more: Any) -> str:
    """Write an evaluation of `vl_rewardbench` with one item per outcome; `more` updates its head, and `rows` replaces
    the items."""
    rows = more.pop("rows", None) or [item(row, correct) for row, correct in enumerate(outcomes)]
    right = sum(correct is True for correct in outcomes)
    metrics = {"overall": measure(right, len(outcomes)), "general": measure(1, 3), "reasoning": measure(2, 3)}
    head = {
        **{"benchmark": "vl_rewardbench", "version": "1", "name": folder.name, "model": f"models/{folder.name}"},
        **{"kind": "scores", "order": None, "votes": None, "items": len(rows), "scored": len(rows), "run_id": None},
        **{"expected": len(rows), "partial": None, "fingerprint": None},
        "variants": {"official": metrics},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps({**head, **more}), encoding="utf-8")
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder)
