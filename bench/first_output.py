"""Measures how long every command is silent: `python -m bench.first_output`.

A command line is started, its standard output and error are read, and it is stopped at its first line. The models and
files that the lines name need not exist, because a command says what it does before it looks for them.
"""

from __future__ import annotations

import subprocess
import sys
import time

COMMANDS = (
    "--help", "--version", "trian", "train basereward --profle tiny", "ls heads", "ls runs", "completion bash",
    "check basereward", "data basereward", "audit basereward", "train basereward", "sweep head_depth",
    "sweep head_depth --status", "sweep head_depth --on ray", "audit basereward --on ray", "resume RUN",
    "score RUN rows.jsonl", "score RUN rows.jsonl --on ray", "serve RUN", "export RUN --out exported",
    "import published --out model", "eval RUN --benchmark rm_bench", "eval RUN --suite all", "ensemble RUN OTHER",
    "report head_depth", "reproduce table_2", "look digits",
    "annotate digits --model m --endpoint local --out out.jsonl",
    "select digits --judges longer --out selection", "verify selection",
    "convert pairs.jsonl --out out.jsonl", "schema",
)  # fmt: skip
"""Command lines, with a typing error in two of them."""
LIMIT_S, IMMEDIATE_LIMIT_S = 2.0, 0.3
"""What a user may wait on two cores, for a command and for help, version and typing errors."""
IMMEDIATE = 4
"""How many of the command lines are answered without work."""
REPEATS = 3


def first_output_s(words: str) -> float:
    """Return the seconds from the start of a command to its first line."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "basereward", *words.split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds = time.perf_counter() - began
        # The command goes on to train or to read; only its first line matters.
        process.kill()
    return seconds


def main() -> int:
    """Print the shortest of some times for every command, and whether all are within the limits."""
    is_late = False
    for number, words in enumerate(COMMANDS):
        seconds = min(first_output_s(words) for _ in range(REPEATS))
        limit = IMMEDIATE_LIMIT_S if number < IMMEDIATE else LIMIT_S
        is_late |= seconds > limit
        print(f"{seconds:6.2f} s  (at most {limit} s)  basereward {words}")
    return int(is_late)


if __name__ == "__main__":
    sys.exit(main())
