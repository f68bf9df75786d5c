"""Whether the process that wrote a record still lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

PROC = Path("/proc")


def identify() -> dict[str, Any]:
    """What tells this process from every other one, in this boot of this machine: JSON values."""
    return {"pid": os.getpid(), "started": _started(os.getpid()), "host": socket.gethostname(), **_place()}


def fate(identity: Mapping[str, Any]) -> Literal["alive", "gone", "unknown"]:
    """What became of the process that `identify` described. Of another machine or container nothing is known.

    >>> fate(identify())
    'alive'
    >>> fate(identify() | {"started": "0"})  # another process has got its number since
    'gone'
    """
    place = _place()
    if identity.get("host") == socket.gethostname() and identity.get("boot") != place["boot"]:
        return "gone"
    if any(identity.get(key) != value for key, value in place.items()):
        return "unknown"
    pid = identity.get("pid")
    if not isinstance(pid, int):
        return "gone"
    if not PROC.is_dir():
        return "alive" if _exists(pid) else "gone"
    started = _started(pid)
    return "alive" if started is not None and started == identity.get("started") else "gone"


def _place() -> dict[str, str]:
    """The boot and the name space that a process number belongs to; empty where there is no /proc."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return {"boot": boot, "namespace": os.readlink(PROC / "self/ns/pid")}
    except OSError:
        return {"boot": "", "namespace": ""}


def _started(pid: int) -> str | None:
    """When the process started, in clock ticks since the boot; None when there is none, or only its remains."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The name, in brackets, may hold spaces and brackets; what follows it are plain fields, from the third on.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields[19]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
