"""Test the list of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main
from basereward.runs.listing import listed_runs
from basereward.runs.run_folder import RunFolder

METRIC = "test/pair_accuracy"


def set_status(run: RunFolder, **values: Any) -> None:
    """Change fields of status.json; None removes one."""
    status = {**run.status, **values}
    kept = {key: value for key, value in status.items() if key not in values or value is not None}
    (run.path / "status.json").write_text(json.dumps(kept))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a sweep of two cells, its ensemble, a run on its own, and a broken folder."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("BASEREWARD_RUNS", str(folder))
    grid = "head=a: 1\nhead=b: 2"
    sweep = RunFolder.create(grid, recipe_sha256="", name="head_depth", kind="sweep", root=folder)
    set_status(sweep, created=1000.0)
    for number, (label, score) in enumerate((("a", 0.5), ("b", 0.75)), start=1):
        cell = RunFolder.create(
            "name: head_depth",
            recipe_sha256=label,
            name=f"head={label}",
            parent=sweep.run_id,
            axes={"head": label},
            experiment="head_depth",
            root=folder,
        )
        cell.write_result({"metrics": {METRIC: score}})
        cell.mark("finished")
        set_status(cell, created=1000.0 + number, seconds=61.0)
    sweep.write_result({"cells": [{"metrics": {METRIC: 0.5}}, {"metrics": {METRIC: 0.75}}]})
    sweep.mark("finished")
    members = "name: both"
    ensemble = RunFolder.create(
        members, recipe_sha256="e", name="both", kind="ensemble", parent=sweep.run_id, root=folder
    )
    ensemble.write_result({"accuracy": 0.6})
    ensemble.mark("finished")
    set_status(ensemble, created=1003.0)
    alone = RunFolder.create("name: basereward", recipe_sha256="r", name="basereward", root=folder)
    alone.mark("failed", error="out of memory")
    set_status(alone, created=1004.0, experiment=None)
    (folder / "broken").mkdir()
    (folder / "broken" / "recipe.yaml").write_text("name: x")
    return folder


def test_every_kind_of_run_is_listed_newest_first(root: Path) -> None:
    """A cell has its labels, an ensemble of a sweep the experiment of the sweep, and a sweep the score of its best
    cell. A run of an earlier version has the experiment of its recipe."""
    rows = [(row.kind, row.experiment, row.cell, row.state, row.score) for row in listed_runs(root=root)]
    assert rows == [
        ("run", "basereward", "", "failed", None),
        ("ensemble", "head_depth", "both", "finished", 0.6),
        ("run", "head_depth", "head=b", "finished", 0.75),
        ("run", "head_depth", "head=a", "finished", 0.5),
        ("sweep", "head_depth", "2 cells", "finished", 0.75),
        ("run", "", "", "broken", None),
    ]


def test_choice_by_experiment_and_state(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both choices may be combined, and the JSON object has every field."""
    assert main(["ls", "runs", "--experiment", "head_depth", "--state", "finished", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert [row["cell"] for row in rows] == ["both", "head=b", "head=a", "2 cells"]
    assert set(rows[0]) >= {"name", "summary", "created", "kind", "state", "score", "seconds", "parent", "error"}
    assert rows[1]["seconds"] == 61.0
    assert main(["ls", "runs", "--state", "failed"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "date", "experiment", "cell", "state", "score", "duration"]
    assert line.split()[3:6] == ["basereward", "-", "failed"]


@pytest.mark.parametrize("words", [["runs", "--state", "finshed"], ["heads", "--state", "finished"]])
def test_wrong_choice_is_a_mistake(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A state is one of five, and only runs have one."""
    assert main(["ls", *words]) == 2
    assert "UsageError" not in (printed := capsys.readouterr()).out
    assert "basereward: " in printed.err


def test_pauses_do_not_count(tmp_path: Path) -> None:
    """A run that worked for 10 s, paused for a day and worked for 5 s took 15 s."""
    run = RunFolder.create("name: a", recipe_sha256="0", name="a", root=tmp_path)
    set_status(run, started=run.status["started"] - 10)
    run.mark("killed", error="")
    set_status(run, started=run.status["started"] - 86400)
    run.mark("running")
    set_status(run, started=run.status["started"] - 5)
    run.mark("finished")
    assert run.seconds == pytest.approx(15, abs=2)
