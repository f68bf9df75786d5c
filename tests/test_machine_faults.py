"""Test that a fault of the machine ends a command with 2 and a message, never with a traceback."""

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
    """Run a line of bash in which `basereward` is the command."""
    script = f'set -o pipefail; basereward() {{ {COMMAND} "$@"; }}; {line}'
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BASEREWARD_EXPERIMENTS": str(ROOT / "experiments")}
    return subprocess.run(["bash", "-c", script], cwd=cwd, capture_output=True, text=True, check=False, env=environment)


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
def test_unusable_streams_folders_and_memory_are_reported(line: str, code: int, tmp_path: Path) -> None:
    """Full, closed and broken streams, a deleted working folder, and no memory to load libraries."""
    completed = shell(line, cwd=tmp_path)
    assert completed.returncode == code, completed.stderr
    assert "Traceback" not in completed.stderr
    assert "Exception ignored" not in completed.stderr
    has_message = code == 2 and "2>" not in line
    assert ("basereward: " in completed.stderr) == has_message


@pytest.mark.parametrize("variable", ["BASEREWARD_RUNS", "BASEREWARD_CACHE"])
@pytest.mark.parametrize("below", ["", "/deeper"])
def test_file_in_place_of_a_folder_is_refused(
    variable: str, below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command names the file and exits with 2; the file is unchanged."""
    file = tmp_path / "file"
    file.write_text("mine")
    monkeypatch.setenv(variable, f"{file}{below}")
    assert main(["train", "basereward", *SMALL, "--json"]) == 2
    printed = capsys.readouterr()
    assert str(file) in json.loads(printed.out)["error"]["message"]
    assert "Traceback" not in printed.err
    assert file.read_text() == "mine"


def test_ls_refuses_a_runs_folder_that_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is an error, not an empty list."""
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("BASEREWARD_RUNS", str(tmp_path / "file"))
    assert main(["ls", "runs"]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_machine_fault_finds_memory_errors_among_the_causes() -> None:
    """A library may report a missing module when memory ran out; other errors are no machine faults."""
    error = ModuleNotFoundError("could not import module")
    error.__cause__ = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
    assert machine_fault(error) is not None
    assert machine_fault(MemoryError()) is not None
    for other_error in (RuntimeError("shapes differ"), KeyError("a"), ValueError("out of memory")):
        assert machine_fault(other_error) is None


def test_errors_contain_no_secrets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A key in an argument is in no message."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    assert main(["ls", "sk-very-secret", "--json"]) == 2
    printed = capsys.readouterr()
    assert "very-secret" not in printed.out + printed.err


def test_control_characters_are_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They may come from a run's name in a copied folder, or from the command line."""
    monkeypatch.setenv("BASEREWARD_RUNS", str(tmp_path))
    RunFolder.create("", recipe_sha256="", name="a\x1b]0;b\x07c", root=tmp_path)
    assert main(["ls", "runs"]) == 0
    printed = capsys.readouterr().out
    assert "a\\x1b]0;b\\x07c" in printed
    assert "\x1b" not in printed
    assert main(["look", "a\x1b[31mb"]) == 2
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("output", [[], ["--json"]])
def test_check_contains_no_secrets(
    output: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fault has the given value, which may be a key or an address with a password."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    overrides = ["trainer.steps=sk-very-secret", "tracking.uri=[http://me:pass-word@host]"]
    assert main(["check", "basereward", *overrides, *output]) == 2
    printed = capsys.readouterr()
    assert "***" in printed.out
    assert "very-secret" not in printed.out + printed.err
    assert "pass-word" not in printed.out + printed.err
