"""Test the answers to mistakes of a new user: what, given, allowed, what to do; exit status 2; no heavy import."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.helpers.mistakes import MISTAKES, ROOT, write_files

Answers = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Run every mistake, each in a process of its own, and return what it printed and imported."""
    folder = tmp_path_factory.mktemp("new-user")
    write_files(folder)
    before = sorted(folder.rglob("*"))
    command = [sys.executable, "-m", "tests.helpers.forked_mistakes", str(folder)]
    completed = subprocess.run(
        command, cwd=ROOT, input=json.dumps(list(MISTAKES)), capture_output=True, text=True, check=True
    )
    assert [path for path in sorted(folder.rglob("*")) if path not in before and "cache" not in path.parts] == []
    answers: Answers = json.loads(completed.stdout)
    return answers


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_answered(name: str, answers: Answers) -> None:
    """The answer repeats what was given, says what would be right, and needs no library of models."""
    mistake, answer = MISTAKES[name], answers[name]
    assert answer["status"] == 2, answer["text"]
    assert "Traceback" not in answer["text"]
    assert mistake.given in answer["text"]
    for text in mistake.allowed:
        assert text in answer["text"], answer["text"]
    assert answer["heavy"] == []
