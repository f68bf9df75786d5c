"""Runs mistakes of `tests.helpers.mistakes` in processes that are forked before anything heavy is imported.

    python -m tests.helpers.forked_mistakes FOLDER < names.json

A fork costs a hundredth of a new interpreter. Prints a JSON object: by name the exit status, what was printed, and the
modules of `HEAVY` that the process had imported at its end.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from basereward.cli import main
from tests.helpers.mistakes import HEAVY, MISTAKES, environment_of


def run(name: str, folder: Path) -> dict[str, Any]:
    """Run one mistake in a child process."""
    with tempfile.TemporaryFile("w+b") as printed, tempfile.TemporaryFile("w+b") as report:
        child = os.fork()
        if child == 0:
            _child(name, folder, printed.fileno(), report.fileno())
        _, status = os.waitpid(child, 0)
        printed.seek(0)
        report.seek(0)
        heavy = json.loads(report.read() or b"null")
        text = printed.read().decode(errors="replace")
    return {"status": os.waitstatus_to_exitcode(status), "text": text, "heavy": heavy}


def _child(name: str, folder: Path, printed: int, report: int) -> None:
    """Run the command line, write the imported modules, and end the process without the parent's exit handlers."""
    status = 1
    try:
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        os.chdir(folder)
        os.environ.update(environment_of(MISTAKES[name], folder))
        status = main(MISTAKES[name].words)
        sys.stdout.flush()
    finally:
        # The child must not return into the parent's loop, whatever was raised.
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
            sys.stderr.flush()
        os.write(report, json.dumps([module for module in HEAVY if module in sys.modules]).encode())
        os._exit(status)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    sys.stdout.write(json.dumps({name: run(name, folder) for name in json.load(sys.stdin)}))
