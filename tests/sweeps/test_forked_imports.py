"""What forked cells of a sweep need is imported once, in the process that they are forked from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from basereward.recipe import load_recipe, recipe_yaml
from basereward.rl import train
from basereward.sweeps.cell_worker import import_trainer

PROGRAM = """
import os, sys
from basereward.sweeps.worker_loop import serve

imports = []
def prepare(task):
    if task not in imports:
        imports.append(task)

def load():
    return lambda task, parent, resume: {"imported": imports, "is_forked": os.getpid() != own}

own = os.getpid()
sys.exit(serve(load, pid=sys.argv[1], prepare=prepare))
"""


def test_forked_tasks_find_what_was_prepared(tmp_path: Path) -> None:
    """The second task of a kind is forked from a process that was prepared by the first one."""
    results = [tmp_path / f"{number}.json" for number in range(3)]
    lines = ""
    for task, result in zip(("rl", "rl", "lightning"), results, strict=True):
        line = {"task": task, "parent": "a", "resume": None, "fork": True, "result": str(result)}
        lines += json.dumps(line) + "\n"
    command = [sys.executable, "-c", PROGRAM, str(os.getpid())]
    subprocess.run(command, input=lines, text=True, check=True)
    found = [json.loads(result.read_text()) for result in results]
    assert ["rl" in str(one) for one in found] == [True] * 3
    assert [str(one).count("rl") for one in found] == [1, 1, 1]
    assert "lightning" in str(found[2])


def test_trainer_of_a_cell_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer is that of the cell's objective; a trainer that is not installed is left to the cell."""
    asked: list[Any] = []

    def trainer_of(recipe: Any) -> None:
        asked.append(recipe.objective["_target_"])
        raise ImportError("trl")

    monkeypatch.setattr(train, "trainer_of", trainer_of)
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(Path(__file__).parents[2] / "experiments"))
    import_trainer(json.dumps({"recipe": recipe_yaml(load_recipe("r1_reward_rl"))}))
    assert asked == ["stable_reinforce"]
