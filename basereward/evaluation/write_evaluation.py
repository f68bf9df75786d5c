"""Count an evaluation and write its files: `evaluation.json`, `items.jsonl` and, for scores, `scores.jsonl`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from basereward.data.images.image_store import ImageStore
from basereward.data.images.open_images import open_image
from basereward.data.schema.group import part_text
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError
from basereward.evaluation.item_identity import item_fingerprint
from basereward.evaluation.items import Decision, JudgedItem, Outcome
from basereward.evaluation.outcome import BASELINES, baseline
from basereward.evaluation.reports.thumbnails import data_uri
from basereward.evaluation.scoring import Bundle
from basereward.evaluation.statistics.baselines import chance_rounds
from basereward.evaluation.statistics.measures import Variant
from basereward.io.files import write_atomic
from basereward.io.limits import read_json

# The files that `write_evaluation` writes, in this order.
WRITTEN = ("items.jsonl", "scores.jsonl", "evaluation.json")
# Images of the items with the worst margins are kept: as many as a report shows, and reduced to this many pixels.
PICTURES, SIDE = 24, 384


def measured(variants: Mapping[str, Variant], judged: Sequence[JudgedItem]) -> dict[str, dict[str, dict[str, Any]]]:
    """Compute all measures, each with the values of the baselines on the same items.

    A variant that counts nothing in outcomes of this kind, such as one of votes in scores, is left out.

    Args:
        variants: ways of counting, by name.
        judged: all items with an outcome.

    Returns:
        Measures as JSON, by variant and metric.

    >>> from basereward.evaluation.items import Item
    >>> from basereward.evaluation.statistics.measures import accuracy
    >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a")
    >>> variants = {"plain": lambda judged: {"overall": accuracy(judged)}}
    >>> measured(variants, [JudgedItem(item, Outcome(scores=(1.0, 0.0)))])["plain"]["overall"]["value"]
    1.0
    """
    counted: dict[str, dict[str, dict[str, Any]]] = {}
    for name, variant in variants.items():
        measures = variant(judged)
        if any(measure.denominator or measure.undecided for measure in measures.values()):
            baselines = _baselines(variant, judged)
            counted[name] = {
                metric: {**measure.as_dict(), "baselines": baselines.get(metric, {})}
                for metric, measure in measures.items()
            }
    return counted


def write_evaluation(
    folder: Path, facts: dict[str, Any], judged: Sequence[JudgedItem], *, images: ImageStore | None = None
) -> None:
    """Write the files of an evaluation.

    Args:
        folder: of the files; it is made.
        facts: the content of `evaluation.json`.
        judged: all items with an outcome.
        images: where the images of the items with the worst margins are; None: no images are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[int, str | None] = {}
    if images is not None:
        pictures = {judged_item.item.row: _picture(judged_item, images) for judged_item in _worst(judged)}
    lines = [
        json.dumps(_item_line(judged_item) | {"picture": pictures.get(judged_item.item.row)}) for judged_item in judged
    ]
    write_atomic(folder / "items.jsonl", "\n".join(lines) + "\n")
    if all(judged_item.outcome.scores is not None for judged_item in judged):
        write_atomic(folder / "scores.jsonl", "".join(f"{json.dumps(_score_line(entry))}\n" for entry in judged))
    else:
        # An earlier evaluation may have left one.
        (folder / "scores.jsonl").unlink(missing_ok=True)
    # Last, so that its existence means that the other files are complete. Unchanged facts keep their time, which is the
    # step of the evaluation in MLflow: a call that is repeated after a kill records the same step.
    if not _is_written(folder / "evaluation.json", facts):
        write_atomic(folder / "evaluation.json", json.dumps(facts, indent=2) + "\n")


def _is_written(file: Path, facts: Mapping[str, Any]) -> bool:
    """Whether a file holds these facts, except for the cost of a judge, which is not measured again."""
    try:
        written = read_json(file)
    except DataError:
        return False
    # Through JSON, which has no tuples.
    wanted = json.loads(json.dumps(facts))
    for entry in (written, wanted):
        if isinstance(entry, dict):
            entry.pop("cost", None)
    return bool(written == wanted)


def _baselines(variant: Variant, judged: Sequence[JudgedItem]) -> dict[str, dict[str, float]]:
    """The values of the baselines, by metric and baseline."""
    items = [judged_item.item for judged_item in judged]
    # Guessing is that of a scorer if all outcomes are scores, otherwise that of a judge.
    independent = any(judged_item.outcome.scores is None for judged_item in judged)
    values: dict[str, dict[str, float]] = {}
    for name in BASELINES:
        rounds = chance_rounds(items, independent=independent) if name == "random" else [baseline(name, items)]
        for metric, value in _mean_values(variant, judged, rounds).items():
            values.setdefault(metric, {})[name] = value
    return values


def _mean_values(
    variant: Variant, judged: Sequence[JudgedItem], rounds: Iterable[Sequence[Outcome]]
) -> dict[str, float]:
    """The mean of every metric over rounds of outcomes for the same items."""
    values: dict[str, list[float]] = {}
    for outcomes in rounds:
        guessed = [JudgedItem(entry.item, outcome) for entry, outcome in zip(judged, outcomes, strict=True)]
        for metric, measure in variant(guessed).items():
            if not math.isnan(measure.value):
                values.setdefault(metric, []).append(measure.value)
    return {metric: math.fsum(series) / len(series) for metric, series in values.items()}


def _worst(judged: Sequence[JudgedItem]) -> list[JudgedItem]:
    """Items that are not right and have a margin, in ascending order of their margins."""
    wrong = [
        (margin, judged_item)
        for judged_item in judged
        if not judged_item.is_right and (margin := judged_item.margin) is not None
    ]
    return [judged_item for _, judged_item in sorted(wrong, key=lambda pair: pair[0])[:PICTURES]]


def _item_line(judged_item: JudgedItem) -> dict[str, Any]:
    item, decision = judged_item.item, judged_item.decision
    return {
        "row": item.row,
        "id": item.id,
        "prompt_id": item.prompt_id,
        "labels": dict(item.labels),
        "prompt": _prompt_text(item.prompt),
        "responses": item.shown_responses,
        "right": list(item.right),
        "wrong": list(item.wrong),
        **({"videos": list(item.videos)} if item.videos else {}),
        "scores": judged_item.outcome.scores,
        "votes": judged_item.outcome.votes,
        "correct": None if decision is Decision.UNDECIDED else judged_item.is_right,
        "tie": decision is Decision.TIE,
        "margin": judged_item.margin,
    }


def _score_line(judged_item: JudgedItem) -> dict[str, Any]:
    """A line that `read_outcomes` accepts."""
    item = judged_item.item
    return {"row": item.row, "id": item.id, "item": item_fingerprint(item), "scores": judged_item.outcome.scores}


def _prompt_text(prompt: Any) -> str:
    """A prompt for people: turns with `<image>` or `<video>` in these places, and other structures as JSON."""
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, tuple):
        return json.dumps(prompt, ensure_ascii=False)
    texts: list[str] = []
    for turn in prompt:
        texts.append("".join(part_text(part) for part in turn.parts))
    # The role of a single turn is always the user's.
    if len(texts) == 1:
        return texts[0]
    return "\n\n".join(f"{turn.role}: {text}" for turn, text in zip(prompt, texts, strict=True))


def _picture(judged_item: JudgedItem, images: ImageStore) -> str | None:
    """The first image of an item, reduced, as a data URI; None if it has none, or the image cannot be opened."""
    bundle = Bundle(judged_item.item)
    bundle.add(judged_item.item)
    try:
        pictures = bundle.group(images).images
        return data_uri(open_image(pictures[0]), side=SIDE) if pictures else None
    except RowRejected:
        # Outcomes can be counted without the images.
        return None
