"""What an evaluation leaves behind: `evaluation.json`, `items.jsonl` and, of a model, `scores.jsonl`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from basereward.data.images.image_store import ImageStore
from basereward.data.images.open_images import open_image
from basereward.data.schema.rejections import RowRejected
from basereward.evaluation.item_identity import item_fingerprint
from basereward.evaluation.items import Decision, JudgedItem
from basereward.evaluation.outcome import BASELINES, baseline
from basereward.evaluation.reports.thumbnails import data_uri
from basereward.evaluation.scoring import Bundle
from basereward.evaluation.statistics.baselines import chance_rounds
from basereward.evaluation.statistics.measures import Variant
from basereward.io.files import write_atomic

WRITTEN = ("items.jsonl", "scores.jsonl", "evaluation.json")  # by `write_evaluation`, in this order
PICTURES, SIDE = 24, 384  # of the items that are worst


def measured(variants: Mapping[str, Variant], judged: Sequence[JudgedItem]) -> dict[str, dict[str, dict[str, Any]]]:
    """Every measure of every variant as JSON, each with its baselines on the same items.

    A variant that counts nothing in outcomes of this kind, as votes in scores, is left out.
    """
    told: dict[str, dict[str, dict[str, Any]]] = {}
    for name, variant in variants.items():
        measures = variant(judged)
        if any(measure.denominator or measure.undecided for measure in measures.values()):
            beside = _baselines(variant, judged)
            told[name] = {
                metric: {**measure.told(), "baselines": beside.get(metric, {})} for metric, measure in measures.items()
            }
    return told


def _baselines(variant: Variant, judged: Sequence[JudgedItem]) -> dict[str, dict[str, float]]:
    """By metric and rule. Guessing is that of a scorer for outcomes that are scores, and of a judge for all others."""
    items = [each.item for each in judged]
    independent = any(each.outcome.scores is None for each in judged)
    found: dict[str, dict[str, float]] = {}
    for name in BASELINES:
        rounds = chance_rounds(items, independent=independent) if name == "random" else [baseline(name, items)]
        values: dict[str, list[float]] = {}
        for outcomes in rounds:
            rivals = [JudgedItem(item, outcome) for item, outcome in zip(items, outcomes, strict=True)]
            for metric, measure in variant(rivals).items():
                if not math.isnan(measure.value):
                    values.setdefault(metric, []).append(measure.value)
        for metric, reached in values.items():
            found.setdefault(metric, {})[name] = math.fsum(reached) / len(reached)
    return found


def write_evaluation(
    folder: Path, facts: dict[str, Any], judged: Sequence[JudgedItem], *, images: ImageStore | None = None
) -> None:
    """Writes the folder; `evaluation.json` last, so that where it is the rest is whole.

    Args:
        facts: of `evaluation.json`.
        images: where the pictures of the worst items are looked for; None: none are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wrong = [(margin, each) for each in judged if not each.is_right and (margin := each.margin) is not None]
    worst = [each for _, each in sorted(wrong, key=lambda pair: pair[0])[:PICTURES]]
    shown = {each.item.row: _picture(each, images) for each in worst} if images is not None else {}
    lines = [json.dumps(_item(each) | {"picture": shown.get(each.item.row)}) for each in judged]
    write_atomic(folder / "items.jsonl", "\n".join(lines) + "\n")
    if all(each.outcome.scores is not None for each in judged):
        rows = [
            {
                "row": each.item.row,
                "id": each.item.id,
                "item": item_fingerprint(each.item),
                "scores": each.outcome.scores,
            }
            for each in judged
        ]
        write_atomic(folder / "scores.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    else:
        (folder / "scores.jsonl").unlink(missing_ok=True)  # of an evaluation before
    write_atomic(folder / "evaluation.json", json.dumps(facts, indent=2) + "\n")


def _item(each: JudgedItem) -> dict[str, Any]:
    item, decision = each.item, each.decision
    return {
        "row": item.row,
        "id": item.id,
        "prompt_id": item.prompt_id,
        "labels": dict(item.labels),
        "prompt": _prompt(item.prompt),
        "responses": list(item.responses),
        "right": list(item.right),
        "wrong": list(item.wrong),
        "scores": each.outcome.scores,
        "votes": each.outcome.votes,
        "correct": None if decision is Decision.UNDECIDED else each.is_right,
        "tie": decision is Decision.TIE,
        "margin": each.margin,
    }


def _prompt(prompt: Any) -> str:
    """A prompt for people: text as it is, turns with the places of their pictures, everything else as JSON."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, tuple):
        turns = ["".join("<image>" if part.text is None else part.text for part in turn.parts) for turn in prompt]
        if len(turns) == 1:
            return turns[0]
        return "\n\n".join(f"{turn.role}: {text}" for turn, text in zip(prompt, turns, strict=True))
    return json.dumps(prompt, ensure_ascii=False)


def _picture(each: JudgedItem, images: ImageStore) -> str | None:
    """The first picture of an item, small; None when there is none, or it cannot be opened."""
    bundle = Bundle(each.item)
    bundle.add(each.item)
    try:
        found = bundle.group(images).images
        return data_uri(open_image(found[0]), side=SIDE) if found else None
    except RowRejected:
        return None
