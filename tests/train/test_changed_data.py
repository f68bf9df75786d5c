"""Data that change between a run's stop and its way on."""

from __future__ import annotations

from pathlib import Path

import pytest

from basereward.errors import DataError
from basereward.recipe import load_recipe
from basereward.train.api import train
from basereward.train.runs import find
from tests.support import only, pair_rows, write_rows


@pytest.mark.parametrize("change", ["a row less", "a longer row"])
def test_a_run_does_not_go_on_with_other_data(change: str, tmp_path: Path) -> None:
    """The same path with other rows: what has been trained on is not known any more, and going on would be a guess."""
    rows = pair_rows(30, folder=tmp_path)
    overrides = [*only(write_rows(tmp_path / "pairs.jsonl", rows)), "trainer.steps=2"]
    recipe = load_recipe("basereward", overrides=overrides)
    run = find(train(recipe)["run_id"])
    run.mark("killed")  # it has a checkpoint, as one that was stopped has
    if change == "a row less":
        write_rows(tmp_path / "pairs.jsonl", rows[:-1])
    else:
        for row in rows:
            row["chosen"][0]["content"] += " and more"
        write_rows(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(DataError, match=r"the groups of mine are not those that the run began"):
        train(recipe, resume=run.run_id)
    write_rows(tmp_path / "pairs.jsonl", pair_rows(30, folder=tmp_path))
    assert train(recipe, resume=run.run_id)["run_id"] == run.run_id
