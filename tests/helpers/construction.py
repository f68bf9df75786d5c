"""Judges of different quality on digits, selections for tests, and annotators who err on known pairs."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression

from basereward import load
from basereward.data.batching.collate import collate
from basereward.data.sources.digits import Digits
from basereward.evaluation.construction.select import select
from basereward.evaluation.construction.verify import Verification
from tests.helpers.served_model import save_scored_model
from tests.helpers.support import write_rows

DIGITS = ("size=50", "answers=5", "true_answers=1")
"""Overrides of the source: 50 scans with 4 pairs each."""
Annotator = Callable[[str, str], tuple[str, bool, list[str]]]
"""`(pair, its true label) -> label, ambiguous, tags`."""


@torch.no_grad()
def digit_judges(folder: Path, *, noise: Sequence[float]) -> list[str]:
    """Write reward models that share a small random backbone, and return their folders.

    The head of each is a logistic regression on the pooled states of the pairs, plus noise of the given size. So they
    are of different quality, and tend to err on the same pairs.
    """
    model = save_scored_model(folder / "fitted", head="linear")
    scorer: Any = load(str(model))
    groups = Digits("digits", size=50, answers=5, true_answers=1).groups("train")
    differences: list[np.ndarray] = []
    for group in groups:
        encoded = [scorer.encoder(group)]
        states = scorer.model.backbone(collate(encoded, layout="tree", pad_id=scorer.encoder.pad_id)).numpy()
        differences += [states[preference.winner] - states[preference.loser] for preference in group.preferences]
    rows = np.concatenate([differences, np.negative(differences)])
    labels = np.repeat([1, 0], len(differences))
    fitted = LogisticRegression(C=0.05, fit_intercept=False, max_iter=500).fit(rows, labels).coef_[0]
    rng = np.random.default_rng(0)
    folders: list[str] = []
    for number, size in enumerate(noise):
        target = folder / f"judge_{number}"
        shutil.copytree(model, target)
        tensors = load_file(target / "head.safetensors")
        (name,) = [key for key, tensor in tensors.items() if tensor.numel() == len(fitted)]
        direction = fitted + size * np.linalg.norm(fitted) * rng.normal(size=len(fitted)) / len(fitted) ** 0.5
        tensors[name] = torch.tensor(direction, dtype=tensors[name].dtype).reshape(tensors[name].shape)
        save_file(tensors, target / "head.safetensors", metadata={"format": "pt"})
        folders.append(str(target))
    return folders


def text_selection(folder: Path, *, pairs: int = 60, words: str = "Which is right?") -> Path:
    """Select pairs whose worse answer is longer, by the rule that longer is better, and return the selection."""
    rows: list[dict[str, Any]] = []
    for number in range(pairs):
        prompt = f"Question {number}. {words}"
        rows.append({"id": f"row-{number}", "prompt": prompt, "chosen": "yes", "rejected": f"no, not {number}"})
    write_rows(folder / "pairs.jsonl", rows)
    select([str(folder / "pairs.jsonl")], judges=["longer"], out=str(folder / "selection"))
    return folder / "selection"


def is_one_of(pair: str, share: int, *, salt: str) -> bool:
    """Whether a pair is one of about one in `share`, by a hash of its id."""
    return hashlib.sha256(f"{salt}/{pair}".encode()).digest()[0] % share == 0


def annotate_all(verification: Verification, people: Mapping[str, Annotator], truth: Mapping[str, str]) -> None:
    """Let people annotate in turns until nobody has a pair left, as their pages do."""
    actions = verification.actions()
    waiting = {name: actions["next"]({"annotator": name, "role": "annotator"}) for name in people}
    while waiting:
        for name in list(waiting):
            pair = waiting[name]["pair"]
            if pair is None:
                del waiting[name]
                continue
            label, ambiguous, tags = people[name](pair["id"], truth[pair["id"]])
            decision = {"item": pair["id"], "label": label, "ambiguous": ambiguous, "tags": tags, "seconds": 2.0}
            waiting[name] = actions["save"]({"annotator": name, "role": "annotator", **decision})


def adjudicate_all(verification: Verification, name: str, truth: Mapping[str, str]) -> int:
    """Let a person who makes no errors adjudicate, and return the number of pairs."""
    actions, number = verification.actions(), 0
    person = {"annotator": name, "role": "adjudicator"}
    answer = actions["next"](person)
    while answer["pair"] is not None:
        assert len(answer["pair"]["decisions"]) == 2
        pair = answer["pair"]["id"]
        decision = {"item": pair, "label": truth[pair], "ambiguous": False, "tags": ["other"], "seconds": 1.0}
        answer = actions["save"](person | decision)
        number += 1
    return number
