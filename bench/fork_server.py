"""Runs commands of `basereward` in forks of one process that has imported everything: two thirds of a command's time.

Every request is a line of JSON on standard input, with the words after `basereward`, the folder, the environment, and
the files for standard output and standard error. The answers are two lines: the id of the process, which leads a
process group of its own, and its exit code, negative for a signal.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

PRELOADED = (
    "basereward.cli",
    "basereward.training.fit",
    "basereward.sweeps.sweep",
    "basereward.evaluation.run_benchmark",
    "basereward.evaluation.annotation.annotate",
    "basereward.evaluation.reports.report",
    "basereward.pipelines.run",
    "basereward.rl.run",
    "datasets",
    "matplotlib.pyplot",
    "mlflow",
    "peft",
    "transformers",
)


def main() -> int:
    """Serve requests until standard input ends. In a fork: run the command, and return its exit code."""
    for name in PRELOADED:
        importlib.import_module(name)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if process == 0:
            return run_command(request)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
    return 0


def run_command(request: dict[str, Any]) -> int:
    """Run one command as a process of its own would.

    Args:
        request: `words`, `folder`, `environment`, `out` and `error`.
    """
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "out"), (2, "error")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = ["basereward", *request["words"]]
    if "BENCH_KILL" in os.environ:
        importlib.import_module("bench.kill_hook.sitecustomize")
    from basereward.__main__ import run

    return run()


if __name__ == "__main__":
    sys.exit(main())
