"""Kills a process group with SIGKILL at a chosen event of any of its processes; loaded by Python's own start.

An event is an effect on a file below a folder (open for writing, rename, remove, make a folder), a connection to an
endpoint, or a step of training, validation or test. `BENCH_KILL` holds the folder, the file that all processes append
their events to, and the number of the event to die at; without a number the events are counted only.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from typing import Any

# Bytes of an event in the file; its size then counts the events of all processes.
RECORD = 128
PLACES = {"open": 0, "os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.link": 1, "shutil.rmtree": 0}
STEPS = {
    ("basereward.training.module", "RewardModule"): ("training_step", "validation_step", "test_step", "optimizer_step"),
    ("basereward.rl.running.run_trainer", "RunTrainer"): ("training_step", "answers"),
}
"""Methods that are steps, by the module and the name of their class."""


class Hook:
    """Counts events, and kills."""

    def __init__(self, *, folder: str, events: str, at: int | None) -> None:
        self.folder = os.path.realpath(folder) + os.sep
        self.events = os.path.realpath(events)
        self.at = at
        self.file = os.open(events, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """What Python calls for every audited event."""
        if event == "socket.connect" and isinstance(arguments[1], tuple):
            # A tuple is an address of a network; sockets between processes of one machine have a path.
            self.count("socket.connect")
        if event not in PLACES:
            return
        if event == "open" and not _writes(arguments):
            return
        path = arguments[PLACES[event]]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        real = os.path.abspath(os.fsdecode(path))
        if real.startswith(self.folder) and real != self.events:
            self.count(f"{event} {_general(real[len(self.folder) :])}")

    def count(self, name: str) -> None:
        """Notes an event, and dies when it is the chosen one."""
        os.write(self.file, name.encode()[: RECORD - 1].ljust(RECORD - 1) + b"\n")
        if self.at is not None and os.fstat(self.file).st_size >= self.at * RECORD:
            os.killpg(os.getpgid(0), signal.SIGKILL)

    def wrap_steps(self) -> None:
        """Counts the steps of the trainers as events, once their classes are there."""
        waiting = dict(STEPS)
        while waiting:
            for place in list(waiting):
                cls = getattr(sys.modules.get(place[0]), place[1], None)
                if cls is not None:
                    for name in waiting.pop(place):
                        self._wrap(cls, name)
            time.sleep(0.01)

    def _wrap(self, cls: Any, name: str) -> None:
        original = getattr(cls, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count(f"step {name}")
            return original(*args, **kwargs)

        # Lightning asks whether a method is overridden, and in which arguments.
        counted.__wrapped__ = original  # type: ignore[attr-defined]
        counted.__name__ = name
        setattr(cls, name, counted)


def _writes(arguments: tuple[Any, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    if isinstance(mode, str):
        return any(letter in mode for letter in "wxa+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if isinstance(flags, int) else False


def _general(path: str) -> str:
    """A path without what differs from run to run: ids, process numbers, random names."""
    path = re.sub(r"\d{8}-\d{6}-[0-9a-f]{6}", "RUN", path)
    path = re.sub(r"[0-9a-f]{16,}", "HASH", path)
    path = re.sub(r"(?<=[.-])[0-9a-z_]{8}(?=[./]|$)", "RANDOM", path)
    return re.sub(r"\d{3,}", "N", path)


if "BENCH_KILL" in os.environ:
    _hook = Hook(**json.loads(os.environ["BENCH_KILL"]))
    sys.addaudithook(_hook.audit)
    threading.Thread(target=_hook.wrap_steps, daemon=True).start()
