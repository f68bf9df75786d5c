"""Test that commands say at once what they do: before the imports that take seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from basereward.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "pytorch_lightning", "datasets", "mlflow", "numpy", "scipy", "matplotlib", "tqdm")
"""Libraries whose import takes longer than `--help` may."""

IMPORTS = """
import json, sys
from basereward.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as stop:
    status = stop.code
sys.stderr.write(json.dumps({"status": status, "heavy": [name for name in HEAVY if name in sys.modules]}))
"""

# The first import of a heavy library ends the process, and says what was on standard error until then.
STOPPED = """
import sys
written = []
class Watched:
    def __init__(self, stream): self.stream = stream
    def write(self, text): written.append(text); return self.stream.write(text)
    def __getattr__(self, name): return getattr(self.stream, name)
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "transformers", "mlflow", "numpy", "matplotlib", "PIL"):
            import os
            os.write(1, "".join(written).encode())
            os._exit(0)
sys.stderr = Watched(sys.stderr)
sys.meta_path.insert(0, Stop())
from basereward.cli import main
main(sys.argv[1:])
"""

ARGUMENTS = {
    "check": ["basereward"],
    "data": ["basereward"],
    "audit": ["basereward"],
    "train": ["basereward"],
    "sweep": ["head_depth"],
    "resume": ["RUN"],
    "score": ["RUN", "rows.jsonl"],
    "serve": ["RUN"],
    "export": ["RUN", "--out", "exported"],
    "import": ["published", "--out", "model"],
    "eval": ["RUN", "--benchmark", "rm_bench"],
    "annotate": ["digits", "--model", "m", "--endpoint", "local", "--out", "out.jsonl"],
    "select": ["digits", "--judges", "longer", "--out", "selection"],
    "verify": ["selection"],
    "ensemble": ["RUN", "OTHER"],
    "report": ["head_depth"],
    "reproduce": ["table_2"],
    "look": ["digits"],
    "convert": ["pairs.jsonl", "--out", "rows.jsonl"],
    "schema": ["experiment"],
}
IMMEDIATE = {"new", "ls", "completion"}
"""Commands whose result is there at once."""


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program with the arguments of a command, from the project's root."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["train", "--help"], 0),
        (["ls", "heads"], 0),
        (["trian"], 2),
        (["train", "basereward", "--profle", "tiny"], 2),
        (["train", "head_dept"], 2),
        (["sweep", "head_depth", "optimizer.lrr=1"], 2),
        (["sweep", "head_depth", "--only", "head=9*"], 2),
        (["sweep", "head_depth", "--on", "rey"], 2),
        (["sweep", "head_depth", "--on", "ray", "--address", "nonsense"], 2),
        (["sweep", "head_depth", "--status"], 2),
        (["ls", "runs"], 0),
        (["score", "model"], 2),
        (["eval", "longer", "--suite", "multimodl"], 2),
        (["reproduce", "table_22"], 2),
        (["reproduce", "yojo"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_and_typing_errors_import_nothing_heavy(words: list[str], status: int) -> None:
    """They are answered in a fraction of a second, which the imports alone would exceed."""
    completed = python(f"HEAVY = {HEAVY!r}\n{IMPORTS}", *words)
    assert json.loads(completed.stderr.splitlines()[-1]) == {"status": status, "heavy": []}


def test_every_command_is_tested() -> None:
    """A new command is added above, with a first line or among those that need none."""
    assert set(COMMANDS) == {*ARGUMENTS, *IMMEDIATE}


VARIED = [*ARGUMENTS.items(), ("eval", ["RUN", "--suite", "multimodal"])]
"""Commands with arguments, and options that take the place of what the first line names."""


@pytest.mark.parametrize(
    ("command", "arguments"), [pytest.param(*case, id=" ".join([case[0], *case[1]])) for case in VARIED]
)
def test_first_line_comes_before_the_heavy_imports(command: str, arguments: list[str]) -> None:
    """The line names the command and what it works on."""
    completed = python(STOPPED, command, *arguments)
    printed = completed.stdout or completed.stderr
    first = printed.splitlines()[0]
    assert first.startswith(f"{command}: ")
    assert arguments[-1 if command == "eval" else 0] in first
