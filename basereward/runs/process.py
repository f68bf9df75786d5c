"""Whether the process that wrote a status file is still running."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

PROC = Path("/proc")


def identify_process() -> dict[str, Any]:
    """Describe this process by JSON values that no other process shares.

    A process number alone is reused after some time, so the start time, the boot and the PID namespace belong to it.
    """
    pid = os.getpid()
    return {"pid": pid, "started": _start_time(pid), "host": socket.gethostname(), **_pid_scope()}


def process_state(identity: Mapping[str, Any]) -> Literal["alive", "gone", "unknown"]:
    """Look up the process that `identify_process` described; `unknown` on another machine or in another container.

    >>> process_state(identify_process())
    'alive'
    >>> process_state(identify_process() | {"started": "0"})  # another process has its number now
    'gone'
    """
    scope = _pid_scope()
    if identity.get("host") == socket.gethostname() and identity.get("boot") != scope["boot"]:
        return "gone"  # the machine has rebooted
    if any(identity.get(key) != value for key, value in scope.items()):
        return "unknown"
    pid = identity.get("pid")
    if not isinstance(pid, int):
        return "gone"
    if not PROC.is_dir():  # macOS: the start time is unknown
        return "alive" if _exists(pid) else "gone"
    start_time = _start_time(pid)
    return "alive" if start_time is not None and start_time == identity.get("started") else "gone"


def _pid_scope() -> dict[str, str]:
    """The boot and the PID namespace in which process numbers are valid; empty where there is no /proc."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return {"boot": boot, "namespace": os.readlink(PROC / "self/ns/pid")}
    except OSError:
        return {"boot": "", "namespace": ""}


def _start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since the boot; None when it does not exist, or is a zombie."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # proc(5): the second field, the name in brackets, may itself hold spaces and brackets. After it come field 3, the
    # state, and the following ones; field 22 is the start time.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields[19]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        return True
    return True
