"""Test real runs whose training groups are curated: duplicates, benchmark rows, and labels that a model contradicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from basereward import build, load_recipe
from basereward.training.fit import train
from tests.helpers.support import only, pair_rows, picture, write_rows

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


def contaminated(folder: Path, *against: str) -> set[str]:
    """The ids of the training rows in `folder` that are left out because they are in a benchmark."""
    held_out = write_rows(folder / "held_out.jsonl", pair_rows(2, seed=1))
    keys = [f"data.sources.mine.val={held_out}", "data.sources.mine.test=0"]
    benchmark = [f"data.curation.against.bench.{key}" for key in against]
    _, data, _ = build(load_recipe("basereward", overrides=[*only(folder / "pairs.jsonl"), *keys, *benchmark]))
    left_out = {row.id: row.reason for row in data.rejected}
    assert set(left_out.values()) == {"contaminated"}
    return set(left_out)


def test_rows_of_a_benchmark_in_its_own_layout_are_left_out(tmp_path: Path) -> None:
    """A folder in the layout of Multimodal RewardBench has the question and the picture of row 3 and, with another
    picture, the question of row 5. Only row 3 is left out."""
    rows = pair_rows(8, folder=tmp_path)
    write_rows(tmp_path / "pairs.jsonl", rows)
    benchmark = tmp_path / "bench"
    benchmark.mkdir()
    published = []
    for row, shown in ((3, 3), (5, 20)):
        picture(shown).save(benchmark / f"{shown}.png")
        texts = {"Text": rows[row]["prompt"][0]["content"], "Output1": "It is red.", "Output2": "It is blue."}
        published.append(texts | {"Image": f"{shown}.png", "ID": str(row), "Better": "Output1", "Category": "vqa"})
    write_rows(benchmark / "test.jsonl", published)
    assert contaminated(tmp_path, "include=benchmarks/multimodal_rewardbench", f"path={benchmark}") == {"row-3"}


def test_what_a_protocol_adds_to_a_prompt_is_not_compared(tmp_path: Path) -> None:
    """In OmniRewardBench, with a file for each task, a criterion follows each prompt. It is no part of the question."""
    rows = [row | {"prompt": f"Name {count} animals."} for count, row in enumerate(pair_rows(8))]
    write_rows(tmp_path / "pairs.jsonl", rows)
    (tmp_path / "bench" / "media_data").mkdir(parents=True)
    answers = {"response1": "Cats.", "response2": "No.", "criteria_preference": "response1"}
    row = {"prompt": "Name 4 animals.", "criteria": "The answer is as short as it can be.", **answers}
    (tmp_path / "bench" / "text_to_text_preferences.json").write_text(json.dumps([row]))
    picture(20).save(tmp_path / "bench" / "media_data" / "20.png")
    row |= {"prompt": "Name 6 animals.", "image": "20.png"}
    (tmp_path / "bench" / "text_image_to_text_preferences.json").write_text(json.dumps([row]))
    against = ["include=benchmarks/omnirewardbench_text", f"path={tmp_path / 'bench'}", "layout=github"]
    assert contaminated(tmp_path, *against) == {"row-4", "row-6"}
