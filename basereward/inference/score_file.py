"""Scores files of prompts and responses, on this machine or in shards on a cluster."""

from __future__ import annotations

import shutil
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from basereward.cluster.options import ClusterOptions
from basereward.cluster.shards import ShardedRows
from basereward.data.encoding.content_hash import rows_hash
from basereward.data.schema.group import Group, image_files
from basereward.data.sources.jsonl import read_rows
from basereward.errors import DataError
from basereward.inference.group_scores import ScoresGroups
from basereward.inference.load_model import load
from basereward.inference.model_content import model_content
from basereward.inference.parallel_scorer import Devices, ParallelScorer, open_scorer
from basereward.io.files import atomic_file, json_text
from basereward.io.outputs import check_folder_of, check_outputs
from basereward.io.progress import track
from basereward.recipe.trust import is_trusted, trusting
from basereward.runs.resolve_model import resolve_model

ROWS_OF_BLOCK = 512
"""Rows whose forward passes have no rows of other blocks, so that where a file is cut into shards changes no bit."""


def score(
    model: str,
    file: str,
    *,
    out: str | None = None,
    tokens: int | None = None,
    dtype: str | None = None,
    devices: Devices = (),
    cluster: ClusterOptions | None = None,
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
        cluster: score in shards on this cluster, and write the same file; None: on this machine. Shards are kept in
            `<out>.shards` until the file is complete, and a call that follows a stopped one continues from them.

    Returns:
        The numbers of rows and responses, the file, the seconds without loading the model, responses per second, and
        the median and 95th percentile of the milliseconds of a forward pass. On a cluster also `workers`, of each the
        most memory that it has had, in bytes; and `shards`, the numbers of all and of those that an earlier call made.

    Raises:
        BaseRewardError: the model cannot be opened, or a row cannot be scored; no row is skipped.
    """
    rows = read_rows(file)
    target = Path(out or f"{Path(file).stem}.scores.jsonl")
    _check_target(target)
    # Before the model is loaded, so that an output that would overwrite an input is reported at once.
    folder = resolve_model(model)
    check_outputs({"--out": target}, chain([Path(file), folder], image_files(rows)), read_whole=[folder])
    if cluster is not None:
        work = _ScoreWork(rows, str(folder.absolute()), model_content(folder), tokens, dtype, is_trusted())
        return _score_on_cluster(work, target, cluster)
    with open_scorer(model, devices=devices, dtype=dtype, num_groups=len(rows)) as scorer:
        began = time.perf_counter()
        scoring = _Scoring(scorer, tokens)
        lines = track(scoring.lines(rows), "scoring", total=len(rows))
        with atomic_file(target) as output:
            output.writelines(lines)
        seconds = time.perf_counter() - began
    return _facts(len(rows), scoring.responses, scoring.latencies, seconds=seconds, out=target)


@dataclass
class _Scoring:
    """Scores rows block by block, and counts.

    Attributes:
        scorer: the model.
        tokens: limit of a forward pass.
        responses: number of responses so far.
        latencies: milliseconds of each forward pass.
    """

    scorer: ScoresGroups
    tokens: int | None
    responses: int = 0
    latencies: list[float] = field(default_factory=list)

    def lines(self, rows: Sequence[Group]) -> Iterator[bytes]:
        """A line of JSON for each row. The first row must be the first one of a block of the file."""
        # Several devices cut the rows in their own way, and would wait for each other at the end of each block.
        size = len(rows) if isinstance(self.scorer, ParallelScorer) else ROWS_OF_BLOCK
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            scored = self.scorer.score_groups(block, tokens=self.tokens, latencies=self.latencies)
            for group, scores in zip(block, scored, strict=True):
                self.responses += len(scores)
                yield json_text({"id": group.id, "scores": scores}).encode() + b"\n"


def _facts(rows: int, responses: int, latencies: Sequence[float], *, seconds: float, out: Path) -> dict[str, Any]:
    return {
        "rows": rows,
        "responses": responses,
        "seconds": round(seconds, 3),
        "responses_per_s": round(responses / seconds, 3),
        "forwards": len(latencies),
        "forward_ms": _percentile(latencies, 50),
        "forward_ms_95": _percentile(latencies, 95),
        "out": str(out),
    }


@dataclass(frozen=True)
class _ScoreWork:
    """What a worker of a cluster scores, and with what; calling it makes the worker.

    Attributes:
        rows: all rows of the file; a worker reads those of its shards.
        folder: of the model, a path that all machines share.
        model_hash: of all that its scores depend on; see `model_content`.
        tokens, dtype: as in `score`.
        trusted: whether code from outside this package may run.
    """

    rows: Sequence[Group]
    folder: str
    model_hash: str
    tokens: int | None
    dtype: str | None
    trusted: bool

    def __call__(self) -> _ScoreWorker:
        return _ScoreWorker(self)


class _ScoreWorker:
    """Scores shards in one process; see `ShardWorker`."""

    def __init__(self, work: _ScoreWork) -> None:
        self.work = work
        self._scorer: ScoresGroups | None = None

    def key(self, rows: range) -> str:
        """As in `ShardWorker`."""
        work = self.work
        parts = [("model", work.model_hash), ("tokens", str(work.tokens)), ("dtype", str(work.dtype)), ("form", "1")]
        return rows_hash(work.rows, rows, parts)

    def write(self, rows: range, target: Path) -> dict[str, Any]:
        """As in `ShardWorker`."""
        # Only here: when all shards are found from an earlier call, no model is needed.
        if self._scorer is None:
            with trusting(self.work.trusted):
                self._scorer = load(self.work.folder, dtype=self.work.dtype)
        scoring = _Scoring(self._scorer, self.work.tokens)
        with target.open("wb") as output:
            output.writelines(scoring.lines(self.work.rows[rows.start : rows.stop]))
        return {"responses": scoring.responses, "latencies": [round(value, 3) for value in scoring.latencies]}


def _score_on_cluster(work: _ScoreWork, target: Path, options: ClusterOptions) -> dict[str, Any]:
    with ShardedRows(options, folder=Path(f"{target}.shards")) as sharded:
        began = time.perf_counter()
        shards = list(sharded.run(work, num_rows=len(work.rows), what="scoring", multiple=ROWS_OF_BLOCK))
        with atomic_file(target) as output:
            for shard in shards:
                with shard.file.open("rb") as lines:
                    shutil.copyfileobj(lines, output)
        seconds = time.perf_counter() - began
        sharded.remove()
    responses, latencies = 0, array("d")
    for shard in shards:
        responses += shard.facts["responses"]
        latencies.extend(shard.facts["latencies"])
    facts = _facts(len(work.rows), responses, latencies, seconds=seconds, out=target)
    return {**facts, **sharded.summary(shards)}


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


def _percentile(values: Sequence[float], percent: int) -> float:
    return round(float(np.percentile(values, percent)), 3)
