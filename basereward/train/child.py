"""Work in a process of its own: what it is told and what it answers are files, and it ends when its parent does.

A GPU that a cell has left in a fault is lost to the whole process, and memory comes back for certain only when it ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from basereward.errors import BaseRewardError, RunError, explain
from basereward.train.console import log_to_stderr
from basereward.train.files import write_atomic

EXIT_MISTAKE, EXIT_INTERRUPTED = 2, 130


def run_child(module: str, told: str, *, parent: str, resume: str | None = None) -> dict[str, Any]:
    """Runs `python -m MODULE` and returns what it answers.

    Args:
        module: whose `main` calls `answer`.
        told: what it works on.
        parent: id of the sweep.
        resume: id of the run that it goes on with.

    Raises:
        RunError: the process failed; the message is its own.
    """
    with tempfile.TemporaryDirectory(prefix="basereward-cell-") as place:
        question, result = Path(place) / "told", Path(place) / "result.json"
        question.write_text(told)
        words = [str(question), str(result), parent, str(os.getpid()), resume or ""]
        code = subprocess.run([sys.executable, "-m", module, *words], check=False).returncode
        if not result.exists():
            raise RunError(f"its process ended with {_ending(code)} and left no result; its output is above")
        found: dict[str, Any] = json.loads(result.read_text())
    if "error" in found:
        raise RunError(found["error"])
    return found


def answer(work: Callable[[], dict[str, Any]], result: str, *, pid: str) -> int:
    """Works in the child and writes the result, or the error, to the file `result`.

    Args:
        pid: of the parent: asked for here, it could be that of another process, since the parent is gone.

    Returns:
        The exit code.
    """
    threading.Thread(target=_end_with, args=(int(pid),), daemon=True).start()
    with log_to_stderr():
        try:
            found = work()
        except BaseRewardError as error:
            write_atomic(result, json.dumps({"error": explain(error)}))
            return EXIT_MISTAKE
        except KeyboardInterrupt:  # the sweep has it too, and says so
            return EXIT_INTERRUPTED
    write_atomic(result, json.dumps(found))
    return 0


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
