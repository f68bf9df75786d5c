"""Scores files of prompts and responses."""

from __future__ import annotations

import time
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from basereward.data.schema.group import image_files
from basereward.data.sources.jsonl import read_rows
from basereward.errors import DataError
from basereward.inference.parallel_scorer import Devices, open_scorer
from basereward.io.files import json_text, write_atomic
from basereward.io.outputs import check_folder_of, check_outputs
from basereward.io.progress import track
from basereward.runs.resolve_model import resolve_model


def score(
    model: str,
    file: str,
    *,
    out: str | None = None,
    tokens: int | None = None,
    dtype: str | None = None,
    devices: Devices = (),
) -> dict[str, Any]:
    """Scores every response of every row of a JSON Lines file.

    Args:
        model: as in `load`.
        file: rows in the format of `basereward/data/schema/rows.py`; preferences are not needed.
        out: JSON Lines `{"id", "scores"}` in the order of the rows, written atomically; None: `<file>.scores.jsonl` in
            the working directory.
        tokens: limit of a forward pass, as in `Scorer.score_groups`.
        dtype: as in `load`.
        devices: as in `open_scorer`; the scores do not depend on them.

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
    folder = resolve_model(model)
    check_outputs({"--out": target}, chain([Path(file), folder], image_files(rows)), read_whole=[folder])
    latencies: list[float] = []
    with open_scorer(model, devices=devices, dtype=dtype, num_groups=len(rows)) as scorer:
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

    >>> _check_target(Path())
    Traceback (most recent call last):
        ...
    basereward.errors.DataError: the scores cannot be written to '.': it is a folder. Give the name of a file.
    """
    check_folder_of(target, what="the scores")
    if target.is_dir():
        raise DataError(f"the scores cannot be written to '{target}': it is a folder. Give the name of a file.")


def _percentile(values: list[float], percent: int) -> float:
    return round(float(np.percentile(values, percent)), 3)
