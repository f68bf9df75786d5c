"""Lists runs, sweeps and ensembles with their states and scores, from their folders alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from basereward.errors import RecipeError, RunError
from basereward.recipe.yaml.files import parse_yaml
from basereward.runs.activity import activity_in
from basereward.runs.run_folder import RunFolder, scan_runs

SCORE = "test/pair_accuracy"
"""The metric that stands for a run."""


@dataclass(frozen=True, slots=True)
class ListedRun:
    """One run of a list.

    Attributes:
        name: id of the run.
        kind: `run`, `sweep`, `ensemble`, `pipeline` or `stage`.
        created: local time, as in `2026-03-14T15:30:12+0100`.
        experiment: name of the experiment; empty where it is not known.
        cell: of a sweep, as in `head=2_silu,seed=1`; of a pipeline, as in `stage=annotate`; for an ensemble its name;
            empty for others.
        state: `running`, `finished`, `failed` or `killed`; `broken` for a folder that cannot be read.
        score: accuracy on the test pairs; of a sweep that of its best cell; None without one.
        seconds: of work, without pauses before a run was resumed; None where they are not known.
        parent: id of the sweep or pipeline that it belongs to; None for others.
        error: why it failed or is broken; None for others.
        host: machine that trains it, or did last; None where it is not known.
        devices: as in `2 x NVIDIA H100`; None where they are not known.
        progress: steps, as in `120 of 400`; None where they are not known.
        device_hours: hours of all devices so far; None where they are not known.
        remaining_s: seconds to its end at the present pace; None where they are not known.
    """

    name: str
    kind: str
    created: str
    experiment: str
    cell: str
    state: str
    score: float | None
    seconds: float | None
    parent: str | None
    error: str | None
    host: str | None = None
    devices: str | None = None
    progress: str | None = None
    device_hours: float | None = None
    remaining_s: float | None = None

    @property
    def summary(self) -> str:
        """The run on one line, as the other lists have it."""
        where = f"{self.experiment} {self.cell}".strip()
        return f"{where}, {self.state}" + (f": {self.error}" if self.state == "broken" else "")

    def as_dict(self) -> dict[str, Any]:
        """All fields, and the summary."""
        return {**asdict(self), "summary": self.summary}


def listed_runs(
    *, experiment: str | None = None, state: str | None = None, root: Path | None = None
) -> list[ListedRun]:
    """List runs of every kind, the newest first; folders that cannot be read come last.

    Args:
        experiment: only those of this experiment.
        state: only those in this state.
        root: folder of all runs.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> run = RunFolder.create("name: a", recipe_sha256="0", name="lr=1", experiment="rates", root=root)
    >>> [(row.experiment, row.state) for row in listed_runs(experiment="rates", root=root)]
    [('rates', 'running')]
    >>> listed_runs(state="failed", root=root)
    []
    """
    runs, broken = scan_runs(root)
    rows = [*_read_runs(runs)]
    for name, reason in broken.items():
        rows.append(ListedRun(name, "run", "", "", "", "broken", None, None, None, reason))
    # Broken folders are of no experiment; hidden, they would look as if they had never been.
    wanted = [row for row in rows if experiment in (None, row.experiment) or row.state == "broken"]
    return [row for row in wanted if state in (None, row.state)]


def _read_runs(runs: Sequence[tuple[RunFolder, dict[str, Any]]]) -> Iterator[ListedRun]:
    # Sweeps first: the runs of a sweep belong to its experiment.
    sweeps = {run.run_id: str(status["name"]) for run, status in runs if status["kind"] in ("sweep", "pipeline")}
    for run, status in runs:
        # Another process may delete a run after it was listed.
        with contextlib.suppress(RunError):
            yield _listed(run, status, sweeps=sweeps)


def _listed(run: RunFolder, status: Mapping[str, Any], *, sweeps: Mapping[str, str]) -> ListedRun:
    result = run.result() or {}
    kind = str(status["kind"])
    state = run.state_in(status)
    seconds = run.seconds_in(status, state=state)
    doing = activity_in(run, status, state=state)
    return ListedRun(
        name=run.run_id,
        kind=kind,
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(status["created"])),
        experiment=_experiment(run, status, sweeps=sweeps),
        cell=_cell(run, status),
        state=state,
        score=_score(result, kind),
        seconds=seconds if seconds is not None else result.get("seconds"),
        parent=status["parent"],
        error=status.get("error"),
        host=doing.host,
        devices=doing.devices,
        progress=f"{doing.step} of {doing.steps}" if doing.steps else None,
        device_hours=doing.device_hours if doing.devices else None,
        remaining_s=doing.remaining_s,
    )


def _experiment(run: RunFolder, status: Mapping[str, Any], *, sweeps: Mapping[str, str]) -> str:
    if status["parent"] in sweeps:
        return sweeps[status["parent"]]
    if status["kind"] == "ensemble":
        return ""
    recorded = status.get("experiment")
    if isinstance(recorded, str):
        return recorded
    if status["kind"] in ("sweep", "pipeline"):
        return str(status["name"])
    # Runs of earlier versions recorded only their display name.
    try:
        return str(parse_yaml(run.recipe_text(), origin=run.run_id).get("name", ""))
    except RecipeError:
        return ""


def _cell(run: RunFolder, status: Mapping[str, Any]) -> str:
    if status["kind"] == "ensemble":
        return str(status["name"])
    if status["kind"] in ("sweep", "pipeline"):
        return f"{len(run.recipe_text().splitlines())} {'cells' if status['kind'] == 'sweep' else 'stages'}"
    return ",".join(f"{name}={label}" for name, label in (status.get("axes") or {}).items())


def _score(result: Mapping[str, Any], kind: str) -> float | None:
    """The score of a run from its result.

    >>> _score({"cells": [{"metrics": {SCORE: 0.5}}, {"metrics": {SCORE: 0.7}}, {"metrics": {}}]}, "sweep")
    0.7
    """
    if kind == "sweep":
        scores = [_score(cell, "run") for cell in result.get("cells", [])]
        return max((score for score in scores if score is not None), default=None)
    score = (result.get("metrics") or {}).get(SCORE)
    # An ensemble that was not tested has the accuracy on the validation pairs of its members.
    return score if score is not None else result.get("accuracy")
