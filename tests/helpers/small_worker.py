"""A worker of a sweep whose tasks need no library: `python -m tests.helpers.small_worker PID`.

A task is a line of Python. Its result has the number of its process and of the parent of that.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from basereward.sweeps.worker_loop import Work, serve


def _load() -> Work:
    def work(task: str, parent: str, resume: str | None) -> dict[str, Any]:
        # Python ends by SIGINT after an interrupt of a text that it executes itself.
        exec(compile(task, "<task>", "exec"), {"parent": parent})
        return {"pid": os.getpid(), "parent": os.getppid(), "resume": resume}

    return work


if __name__ == "__main__":
    sys.exit(serve(_load, pid=sys.argv[1]))
