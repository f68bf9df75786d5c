"""Test the identity of a stage: what makes it another one, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from basereward.pipelines.definition import stage_key
from basereward.pipelines.stage_runs import _key
from basereward.recipe import make


def key(**node: Any) -> str:
    """The identity of a stage."""
    return _key(node, make(node, "stages"))


def test_the_working_folder_is_no_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an empty text nor the name of the target stands for a folder; the name of a file stands for it."""
    monkeypatch.chdir(tmp_path)
    node = {"_target_": "select", "rows": "rows.jsonl", "column": ""}
    before = stage_key(node)
    (tmp_path / "select").mkdir()
    (tmp_path / "select" / "a").write_text("1")
    assert stage_key(node) == before
    (tmp_path / "rows.jsonl").write_text("{}\n")
    assert stage_key(node) != before


def test_another_definition_of_a_name_is_another_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a source, of a benchmark and of the rows that it reads. A name that is not found has an identity too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(tmp_path / "own"))
    annotate = {"_target_": "annotate", "source": "sums", "model": "m", "endpoint": "http://localhost:1/v1"}
    evaluate = {"_target_": "evaluate", "model": "m", "benchmarks": ["mine"]}
    keys = [(key(**annotate), key(**evaluate))]
    rows = tmp_path / "rows.jsonl"
    for place, (kind, name) in enumerate((("sources", "sums"), ("benchmarks", "mine"))):
        folder = tmp_path / "own" / kind
        folder.mkdir(parents=True)
        target = {"sources": "jsonl", "benchmarks": "pairs"}[kind]
        (folder / f"{name}.yaml").write_text(f"_target_: {target}\npath: {rows}\n")
        keys.append((key(**annotate), key(**evaluate)))
        assert [old != new for old, new in zip(keys[-2], keys[-1], strict=True)] == [place == 0, place == 1]
    rows.write_text("{}\n")
    assert all(old != new for old, new in zip(keys[-1], (key(**annotate), key(**evaluate)), strict=True))
