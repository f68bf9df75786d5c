"""What a run is doing: where it runs, how far it is, what it has cost and when it ends, from its folder alone."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from basereward.io.lease import shared_holder
from basereward.io.processes import identify_process
from basereward.runs.run_folder import RunFolder, State

JOB_VARIABLES = ("SLURM_JOB_ID", "RAY_JOB_ID", "KUBERNETES_POD_NAME")
"""Variables by which a cluster tells a process its job."""


@dataclass(frozen=True, slots=True)
class Activity:
    """What a run is doing.

    Attributes:
        host: machine that works on it, or did last.
        job: of the cluster; None outside of one.
        devices: as in `2 x NVIDIA H100`; None before the training has begun.
        since: local time at which this process began, as in `2026-03-14T15:30:12+0100`.
        step: finished optimizer steps by the record, which has every `trainer.log_every`th.
        steps: of the whole run; None before the training has begun.
        device_hours: hours of all devices so far, without pauses; a CPU counts as one.
        remaining_s: seconds to the end at the present pace; None without a pace, or for a run that has ended.
    """

    host: str | None
    job: str | None
    devices: str | None
    since: str
    step: int
    steps: int | None
    device_hours: float | None
    remaining_s: float | None


def place_of_process(devices: int, device: str) -> dict[str, Any]:
    """Where this process trains, for the folder of its run and for tags.

    Args:
        devices: number of all devices of the run.
        device: name of one.

    >>> place = place_of_process(2, "NVIDIA H100")
    >>> place["devices"], place["num_devices"], place["host"] == identify_process()["host"]
    ('2 x NVIDIA H100', 2, True)
    """
    job = next((os.environ[name] for name in JOB_VARIABLES if os.environ.get(name)), None)
    host = identify_process()["host"]
    return {"host": host, "job": job, "devices": f"{devices} x {device}", "num_devices": devices}


def activity(run: RunFolder) -> Activity:
    """What a run is doing, or did when it ended.

    Raises:
        RunError: the folder is not that of a run.

    >>> import tempfile
    >>> from pathlib import Path
    >>> run = RunFolder.create("name: a", recipe_sha256="0", name="a", root=Path(tempfile.mkdtemp()))
    >>> activity(run).host == identify_process()["host"], activity(run).step, activity(run).steps
    (True, 0, None)
    """
    status = run.status
    return activity_in(run, status, state=run.state_in(status))


def activity_in(run: RunFolder, status: Mapping[str, Any], *, state: State) -> Activity:
    """As `activity`, by the `status` and the `state` of a run that were read before.

    Args:
        run: of which.
        status: content of its status.json.
        state: of the run.
    """
    place = _mapping(status.get("place"))
    holder = shared_holder(run.lease)
    process = holder.process if holder is not None else _mapping(status.get("process"))
    steps = place.get("steps")
    step = run.journal.last_step()
    seconds = run.seconds_in(status, state=state)
    devices = place.get("num_devices") or 1
    pace_s = _pace(place, step, status)
    is_running = state == "running"
    remaining_s = pace_s * (steps - step) if pace_s is not None and isinstance(steps, int) and is_running else None
    return Activity(
        host=place.get("host") or process.get("host"),
        job=place.get("job"),
        devices=place.get("devices"),
        since=time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(float(status.get("started") or status["created"]))),
        step=step,
        steps=steps,
        device_hours=None if seconds is None else seconds * devices / 3600,
        remaining_s=remaining_s,
    )


def _pace(place: Mapping[str, Any], step: int, status: Mapping[str, Any]) -> float | None:
    """Seconds of a step in this process, with its validations; None before its first recorded one."""
    first = place.get("first_step")
    began = place.get("began")
    if not isinstance(first, int) or not isinstance(began, int | float) or step <= first:
        return None
    return max(time.time() - float(began), 0.0) / (step - first) if status["state"] == "running" else None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
