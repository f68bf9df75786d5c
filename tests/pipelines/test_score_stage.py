"""Test the stage that scores rows."""

from __future__ import annotations

from pathlib import Path

from basereward.data.sources.jsonl import read_rows
from basereward.pipelines.stages.score import Score
from tests.helpers.support import write_rows


def test_scored_rows_have_the_preferences_of_before(tmp_path: Path) -> None:
    """The margin of the scores is no margin of the annotators, which rows with `preferences` may not have at all."""
    rows = [
        {"id": "0", "prompt": "2 + 2?", "responses": ["4", "5"], "preferences": [[0, 1]]},
        {"id": "1", "prompt": "2 + 3?", "chosen": "5", "rejected": "4"},
    ]
    source = write_rows(tmp_path / "rows.jsonl", rows)
    scored = Score(rows=str(source), model="unused").preview(tmp_path)["rows"]
    assert [group.preferences for group in read_rows(scored)] == [group.preferences for group in read_rows(source)]
