"""Opens trained models, and scores files of prompts and responses."""

from __future__ import annotations

import os
import time
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from basereward.data.schema.group import image_files
from basereward.data.sources.jsonl import read_rows
from basereward.errors import DataError
from basereward.inference.ensemble import Ensemble, is_ensemble, load_ensemble
from basereward.inference.scorer import Scorer, load_scorer
from basereward.io.files import json_text, write_atomic
from basereward.io.outputs import check_outputs
from basereward.io.progress import phase, track
from basereward.recipe.trust import trusting
from basereward.runs.resolve_model import resolve_model


def load(
    model: str | os.PathLike[str], *, device: str | None = None, dtype: str | None = None, trust: bool = False
) -> Scorer | Ensemble:
    """Opens a trained model, or an ensemble of them.

    Args:
        model: a run id, `runs:/<run id>/model`, or a folder that was saved.
        device: None: the GPU if there is one.
        dtype: of the backbone's weights, `float32` or `bfloat16`; None: as in training. The head is always in float32.
        trust: whether heads from outside of this package, and Python files of the checkpoint, may run. A folder from
            elsewhere can name any code, so only the caller can allow it.

    Raises:
        RunError: there is no such run.
        ModelError: the folder is not a saved model, or its weights do not fit; there is no such dtype, or the weights
            are quantised and cannot be cast to it.
    """
    folder = resolve_model(str(model))
    with trusting(trust):
        if is_ensemble(folder):
            return load_ensemble(folder, find=resolve_model, device=device, dtype=dtype)
        return load_scorer(folder, device=device, dtype=dtype)


def score(
    model: str, file: str, *, out: str | None = None, tokens: int | None = None, dtype: str | None = None
) -> dict[str, Any]:
    """Scores every response of every row of a JSON Lines file.

    Args:
        model: as in `load`.
        file: rows in the format of `basereward/data/schema/rows.py`; preferences are not needed.
        out: JSON Lines `{"id", "scores"}` in the order of the rows, written atomically; None: `<file>.scores.jsonl` in
            the working directory.
        tokens: limit of a forward pass, as in `Scorer.score_groups`.
        dtype: as in `load`.

    Returns:
        The numbers of rows and responses, the file, the seconds without loading the model, responses per second, and
        the median and 95th percentile of the milliseconds of a forward pass.

    Raises:
        BaseRewardError: the model cannot be opened, or a row cannot be scored; no row is skipped.
    """
    rows = read_rows(file)
    target = Path(out or f"{Path(file).stem}.scores.jsonl")
    _check_target(target)
    # Before the model is loaded, so that an output that would overwrite an input is reported at once.
    check_outputs({"--out": target}, chain([Path(file), resolve_model(model)], image_files(rows)))
    with phase("loading the model"):
        scorer = load(model, dtype=dtype)
    latencies: list[float] = []
    began = time.perf_counter()
    scored = list(track(scorer.score_groups(rows, tokens=tokens, latencies=latencies), "scoring", total=len(rows)))
    seconds = time.perf_counter() - began
    lines = [json_text({"id": group.id, "scores": scores}) for group, scores in zip(rows, scored, strict=True)]
    write_atomic(target, "\n".join(lines) + "\n" if lines else "")
    responses = sum(len(scores) for scores in scored)
    return {
        "rows": len(lines),
        "responses": responses,
        "seconds": round(seconds, 3),
        "responses_per_s": round(responses / seconds, 3),
        "forwards": len(latencies),
        "forward_ms": _percentile(latencies, 50),
        "forward_ms_95": _percentile(latencies, 95),
        "out": str(target),
    }


def _check_target(target: Path) -> None:
    """Checks that scores can be written to a path.

    Raises:
        DataError: its folder does not exist, or it is a folder itself.

    >>> _check_target(Path("no folder/scores.jsonl"))
    Traceback (most recent call last):
        ...
    basereward.errors.DataError: the scores cannot be written to 'no folder/scores.jsonl': there is no folder ...
    """
    if not target.parent.is_dir():
        raise DataError(
            f"the scores cannot be written to '{target}': there is no folder '{target.parent}'. Create it first."
        )
    if target.is_dir():
        raise DataError(f"the scores cannot be written to '{target}': it is a folder. Give the name of a file.")


def _percentile(values: list[float], percent: int) -> float:
    return round(float(np.percentile(values, percent)), 3)
