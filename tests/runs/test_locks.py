"""Test which earlier folder a sweep or a pipeline continues in."""

from __future__ import annotations

from pathlib import Path

import pytest

from basereward.runs.locks import lock_earlier, unlock_run
from basereward.runs.run_folder import RunFolder


def folder(text: str, *, state: str) -> RunFolder:
    """Return the folder of a sweep that has ended."""
    run = RunFolder.create(text, recipe_sha256="", name="heads", kind="sweep")
    run.mark(state)  # type: ignore[arg-type]
    return run


def test_asked_folder_is_taken_before_newer_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three folders of the same cells the newest is taken, or the one that is asked for. One of other cells, which
    were edited since, is not taken even if it is asked for."""
    monkeypatch.setenv("BASEREWARD_RUNS", str(tmp_path))
    stopped, finished, other = folder("a", state="killed"), folder("a", state="finished"), folder("b", state="killed")
    for asked, expected in ((None, finished), (stopped, stopped), (other, finished)):
        taken = lock_earlier(kind="sweep", name="heads", text="a", asked=asked)
        assert taken == expected
        assert taken.state == "running"
        unlock_run(taken)
        taken.mark("killed")
