"""Test real runs whose training groups are curated: duplicates, benchmark rows, and labels that a model contradicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from basereward import build, load_recipe
from basereward.training.fit import train
from tests.helpers.support import only, pair_rows, write_rows

ROWS = 48


def rows_of(folder: Path) -> Path:
    """Write rows that differ strongly from each other, and four copies of rows."""
    rows: list[dict[str, Any]] = pair_rows(ROWS)
    for index, row in enumerate(rows):
        words = " ".join(f"w{index}x{word}" for word in range(30))
        row["prompt"] = [{"role": "user", "content": f"What is meant by {words}?"}]
        if index % 2:  # no model is right about all rows
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    copies = [rows[i] | {"id": f"copy-{i}"} for i in range(4)]
    return write_rows(folder / "pairs.jsonl", [*rows, *copies])


def overrides(folder: Path) -> list[str]:
    """Return overrides that train on all rows but a tenth and allow no faulty row."""
    file = rows_of(folder)
    return [*only(file), "data.max_lost=0", "data.sources.mine.val=0.05", "data.sources.mine.test=0", "trainer.steps=2"]


@pytest.mark.usefixtures("ready_store")
def test_curated_rows_are_counted_outside_the_limit(tmp_path: Path) -> None:
    """Duplicates, benchmark rows and rows that a model contradicts are left out under their reasons although
    `data.max_lost` is 0, and changed weights reach the batch."""
    sources = overrides(tmp_path)
    lines = (tmp_path / "pairs.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "bench.jsonl").write_text("".join(lines[20:30]))
    judge = train(load_recipe("basereward", overrides=sources))
    assert judge["skipped"] == {}
    curation = [
        "data.curation.duplicates=true",
        "data.curation.against.bench.include=sources/jsonl",
        f"data.curation.against.bench.path={tmp_path / 'bench.jsonl'}",
        f"data.curation.judge={judge['run_id']}",
    ]
    strict = train(load_recipe("basereward", overrides=[*sources, *curation, "data.curation.drop=0"]))
    reasons = strict["skipped"]["mine"]
    assert set(reasons) == {"duplicate", "contaminated", "disagrees"}
    assert 0 < reasons["duplicate"] <= 4
    assert 5 < reasons["contaminated"] <= 10

    _, data, _ = build(load_recipe("basereward", overrides=[*sources, *curation, "data.curation.drop=1000"]))
    assert set(data.skipped["mine"]) == {"duplicate", "contaminated"}
    weights = {
        group_id: float(weight)
        for batch in data.stage_loader(0)
        for group_id, weight in zip(batch.ids, batch.preferences.weight, strict=True)
    }
    groups = data.sources["mine"].groups("train")
    changed = {
        groups[index].id: new_preferences[0].weight for (_, index), new_preferences in data.curated.preferences.items()
    }
    changed_ids = changed.keys() & weights.keys()
    assert changed_ids
    for name in changed_ids:
        assert 0 < changed[name] < 1
        assert abs(weights[name] - changed[name]) < 1e-6
    assert all(weight == 1 for name, weight in weights.items() if name not in changed)
