"""Test the identity of a stage: what makes it another one, and what does not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from basereward.pipelines.stage_runs import _key
from basereward.recipe import make
from tests.helpers.checkpoint_fixtures import change_a_weight
from tests.helpers.served_model import save_scored_model
from tests.helpers.support import checkpoint, write_rows


def key(**node: Any) -> str:
    """The identity of a stage."""
    return _key(node, make(node, "stages"))


def test_only_declared_paths_are_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that have the names of a target, a column, a split or a model at an address are no inputs; the file of
    the rows is one."""
    monkeypatch.chdir(tmp_path)
    select = {"_target_": "select", "rows": "rows.jsonl", "column": "margin", "at_least": 1}
    annotate = {"_target_": "annotate", "source": "digits", "model": "judge", "endpoint": "http://localhost:1/v1"}
    before = key(**select), key(**annotate)
    for name in ("select", "margin", "train", "judge"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("1")
    assert (key(**select), key(**annotate)) == before
    (tmp_path / "rows.jsonl").write_text("{}\n")
    assert key(**select) != before[0]


def test_inputs_count_by_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a folder that changes and keeps its name and size is another input; a copy of the folder that is
    put in its place is not."""
    monkeypatch.chdir(tmp_path)
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "a.jsonl").write_text("{}\n")
    source = {"_target_": "hub", "path": "rows"}
    node = {"_target_": "annotate", "source": source, "model": "m", "endpoint": "http://localhost:1/v1"}
    before = key(**node)
    shutil.copytree(rows, tmp_path / "copy")
    (rows / "a.jsonl").write_text("[]\n")
    changed = key(**node)
    shutil.rmtree(rows)
    (tmp_path / "copy").rename(rows)
    assert key(**node) == before != changed


def test_a_judge_that_was_trained_again_is_another_one(tmp_path: Path) -> None:
    """The weights of a local judge belong to the identity of its annotations and evaluations."""
    model = checkpoint("qwen3", tmp_path / "model")
    scored = save_scored_model(tmp_path / "scored", head="linear")
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}])
    nodes: list[dict[str, Any]] = [
        {"_target_": "annotate", "source": "digits", "model": str(model), "endpoint": "local"},
        {"_target_": "evaluate", "model": str(scored), "judge": False, "data": str(rows)},
        {"_target_": "score", "model": str(scored), "rows": str(rows)},
    ]
    before = [key(**node) for node in nodes]
    assert [key(**node) for node in nodes] == before
    change_a_weight(model / "model.safetensors")
    change_a_weight(scored / "head.safetensors")
    assert not set(before) & {key(**node) for node in nodes}


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
