"""What the machine refuses ends a command with 2 and a sentence, and never with a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from basereward.cli import main
from basereward.cli.machine_faults import machine_fault
from basereward.runs.run_folder import RunFolder
from tests.helpers.support import SMALL

ROOT = Path(__file__).parents[1]
COMMAND = f"{sys.executable} -m basereward"


def shell(line: str, *, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A line of bash, in which `basereward` is the command."""
    script = f'set -o pipefail; basereward() {{ {COMMAND} "$@"; }}; {line}'
    ours = {**os.environ, "PYTHONPATH": str(ROOT), "BASEREWARD_EXPERIMENTS": str(ROOT / "experiments")}
    return subprocess.run(["bash", "-c", script], cwd=cwd, capture_output=True, text=True, check=False, env=ours)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("basereward ls heads > /dev/full", 2),
        ("basereward ls hads --json > /dev/full", 2),
        ("basereward ls heads >&-", 2),
        ("basereward ls hads 2> /dev/full", 2),
        ("basereward ls hads 2>&-", 2),
        ("basereward ls heads <&-", 0),
        ("basereward ls heads | true", 141),
        ("mkdir gone; cd gone; rmdir ../gone; basereward ls heads", 2),
        ("ulimit -v 400000; basereward data basereward", 2),
        ("PYTHONIOENCODING=ascii basereward ls heads", 0),
    ],
)
def test_streams_folders_and_memory_that_are_not_there(line: str, code: int, tmp_path: Path) -> None:
    """Full, closed and broken streams, a working folder that was deleted, no memory to load libraries."""
    done = shell(line, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    says = code == 2 and "2>" not in line
    assert ("basereward: " in done.stderr) == says


@pytest.mark.parametrize("variable", ["BASEREWARD_RUNS", "BASEREWARD_CACHE"])
@pytest.mark.parametrize("below", ["", "/deeper"])
def test_a_file_in_the_place_of_a_folder(
    variable: str, below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command names the file and ends with 2; the file stays."""
    file = tmp_path / "file"
    file.write_text("mine")
    monkeypatch.setenv(variable, f"{file}{below}")
    assert main(["train", "basereward", *SMALL, "--json"]) == 2
    printed = capsys.readouterr()
    assert str(file) in json.loads(printed.out)["error"]["message"]
    assert "Traceback" not in printed.err
    assert file.read_text() == "mine"


def test_runs_that_are_a_file_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is an error, and not a list without runs."""
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("BASEREWARD_RUNS", str(tmp_path / "file"))
    assert main(["ls", "runs"]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_memory_that_is_not_there_is_found_among_the_causes() -> None:
    """A library may say that a module is missing because there was no memory for it; other errors stay errors."""
    error = ModuleNotFoundError("could not import module")
    error.__cause__ = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
    assert machine_fault(error) is not None
    assert machine_fault(MemoryError()) is not None
    for slip in (RuntimeError("shapes differ"), KeyError("a"), ValueError("out of memory")):
        assert machine_fault(slip) is None


def test_secrets_are_left_out_of_errors_and_logs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key that stands in an argument comes back in no message."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    assert main(["ls", "sk-very-secret", "--json"]) == 2
    printed = capsys.readouterr()
    assert "very-secret" not in printed.out + printed.err


def test_control_characters_do_not_reach_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither of a run's name, which its folder may have brought along, nor of what was typed."""
    monkeypatch.setenv("BASEREWARD_RUNS", str(tmp_path))
    RunFolder.create("", recipe_sha256="", name="a\x1b]0;b\x07c", root=tmp_path)
    assert main(["ls", "runs"]) == 0
    assert "a\\x1b]0;b\\x07c, running" in capsys.readouterr().out
    assert main(["look", "a\x1b[31mb"]) == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("output", [[], ["--json"]])
def test_secrets_are_left_out_of_what_check_finds(
    output: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault tells the value that was given, which may be a key or an address with a password."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    slips = ["trainer.steps=sk-very-secret", "tracking.uri=[http://me:pass-word@host]"]
    assert main(["check", "basereward", *slips, *output]) == 2
    printed = capsys.readouterr()
    assert "***" in printed.out
    assert "very-secret" not in printed.out + printed.err
    assert "pass-word" not in printed.out + printed.err
