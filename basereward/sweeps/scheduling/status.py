"""A view of a sweep from its folder alone: what runs where, since when, how far, at what cost, and until when."""

from __future__ import annotations

import contextlib
from collections.abc import Container
from dataclasses import asdict
from typing import Any

from basereward.errors import RunError, nearest
from basereward.recipe import Cell, recipe_sha256
from basereward.runs.activity import activity
from basereward.runs.listing import SCORE
from basereward.runs.run_folder import RunFolder, list_runs, scan_runs
from basereward.sweeps.saved_sweep import has_saved_sweep, load_sweep


def sweep_status(name: str) -> dict[str, Any]:
    """The state of the newest sweep of an experiment, which may run on another machine.

    Args:
        name: of the experiment, or the id of the sweep.

    Returns:
        `sweep_id`, `name`, `state`; `cells`: of each its `name`, `state` (`waiting` without a run), `run_id`, `score`
        and the fields of `Activity`; `finished` and `failed`, numbers of cells; `device_hours` of all cells;
        `remaining_s`, seconds to the end at the present pace, None where it is not known.

    Raises:
        RunError: there is no such sweep.

    >>> sweep_status("no_such_experiment")
    Traceback (most recent call last):
    basereward.errors.RunError: there is no sweep of 'no_such_experiment' in ...
    """
    sweep = _find(name)
    experiment, _ = load_sweep(sweep)
    hashes = [recipe_sha256(cell.recipe) for cell in experiment.cells]
    newest = _newest_runs(set(hashes))
    rows = [_row(cell, newest.get(sha256)) for cell, sha256 in zip(experiment.cells, hashes, strict=True)]
    counts = {state: sum(row["state"] == state for row in rows) for state in ("finished", "failed")}
    hours = [row["device_hours"] for row in rows if row["device_hours"] is not None]
    return {
        "sweep_id": sweep.run_id,
        "name": experiment.name,
        "state": sweep.state,
        "cells": rows,
        **counts,
        "device_hours": sum(hours),
        "remaining_s": _remaining(rows),
    }


def _newest_runs(hashes: Container[str]) -> dict[str, RunFolder]:
    """The newest run of each recipe; a finished one counts before a later one that failed."""
    newest: dict[str, tuple[RunFolder, bool]] = {}
    for run, status in scan_runs(None)[0]:
        sha256 = status["recipe_sha256"]
        if status["kind"] != "run" or sha256 not in hashes:
            continue
        is_finished = run.state_in(status) == "finished"
        if sha256 not in newest or (is_finished and not newest[sha256][1]):
            newest[sha256] = (run, is_finished)
    return {sha256: run for sha256, (run, _) in newest.items()}


def _find(name: str) -> RunFolder:
    sweeps = list_runs(kind="sweep")
    for sweep in sweeps:
        if name in (sweep.name, sweep.run_id) and has_saved_sweep(sweep):
            return sweep
    known = list(dict.fromkeys(sweep.name for sweep in sweeps))
    close = nearest(name, known)
    hint = f" Did you mean '{close}'?" if close else ""
    place = f"there is no sweep of '{name}' in $BASEREWARD_RUNS or ./runs."
    raise RunError(f"{place}{hint} Sweeps there: {', '.join(known) or 'none'}. All runs: basereward ls runs")


def _row(cell: Cell, run: RunFolder | None) -> dict[str, Any]:
    empty = dict.fromkeys(("host", "job", "devices", "since", "step", "steps", "device_hours", "remaining_s", "score"))
    row: dict[str, Any] = {"name": cell.name, "state": "waiting", "run_id": None, **empty}
    if run is None:
        return row
    # Another process may delete the run after it was listed.
    with contextlib.suppress(RunError):
        score = (run.result() or {}).get("metrics", {}).get(SCORE)
        row |= {**asdict(activity(run)), "state": run.state, "run_id": run.run_id, "score": score}
    return row


def _remaining(rows: list[dict[str, Any]]) -> float | None:
    """Seconds to the end of all cells, when as many run at a time as now and a waiting one takes as long as the others.

    >>> running = {"state": "running", "remaining_s": 60.0, "device_hours": 0.5, "steps": 100, "step": 75}
    >>> _remaining([running, {"state": "finished"}])
    60.0
    """
    running = [row for row in rows if row["state"] == "running"]
    if not running or not all(row["remaining_s"] is not None and row["step"] for row in running):
        return None
    left = [float(row["remaining_s"]) for row in running]
    # The whole time of each running cell at its pace, which a waiting one is expected to take.
    whole = [float(row["remaining_s"]) * row["steps"] / max(row["steps"] - row["step"], 1) for row in running]
    waiting = sum(row["state"] in ("waiting", "killed") for row in rows)
    all_left_s = sum(left) + waiting * sum(whole) / len(whole)
    return max(float(all_left_s) / len(running), *left)
