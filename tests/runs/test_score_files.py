"""Files of scores: scores of a batch, written, read and summarised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from basereward.data.batching.collate import collate
from basereward.data.schema.group import Preference
from basereward.runs.score_files import ScoredGroup, read_scores, scored_groups, spread, write_scores
from tests.helpers.support import encoded_group

SCORES = [0.5, 2.0, -1.0, 4.0, 1.5, 3.0]
EXPECTED = [
    ScoredGroup("one", "a", [0.5, 2.0], [1, 3], [(1, 0, False)]),
    ScoredGroup("two", "b", [-1.0], [4], []),
    ScoredGroup("three", "a", [4.0, 1.5, 3.0], [0, 2, 5], [(2, 0, False), (0, 1, True), (1, 2, False)]),
]


@pytest.mark.parametrize("layout", ["tree", "plain"])
def test_scored_groups_of_a_batch(layout: Any) -> None:
    """Each group has the scores and lengths of its own responses, and preferences that index them."""
    groups = [
        encoded_group(2, [2, 4], (Preference(1, 0),), name="one", source="a"),
        encoded_group(3, [5], (), name="two", source="b"),
        encoded_group(
            1, [1, 3, 6], (Preference(2, 0), Preference(0, 1, tie=True), Preference(1, 2)), name="three", source="a"
        ),
    ]
    batch = collate(groups, layout=layout, pad_id=0)
    assert scored_groups(batch, torch.tensor(SCORES)) == EXPECTED


def test_margins_leave_out_ties() -> None:
    """A margin is the winner's score minus the loser's."""
    assert [group.margins for group in EXPECTED] == [[1.5], [], [-1.0, -1.5]]


def test_scores_are_read_as_written(tmp_path: Path) -> None:
    """Bit for bit; a second write replaces the file."""
    exact = ScoredGroup("Ω", "a", [0.1 + 0.2, 1e-30], [1, 2], [(0, 1, False)])
    path = tmp_path / "val.jsonl"
    write_scores(path, EXPECTED)
    write_scores(path, [exact, *EXPECTED])
    assert len(path.read_text().splitlines()) == 4
    assert read_scores(path) == [exact, *EXPECTED]


def test_spread_is_over_all_responses() -> None:
    """Mean and population standard deviation over the responses of all groups; no scores give an empty result."""
    groups = [ScoredGroup("1", "a", [1.0, 3.0], [1, 1], []), ScoredGroup("2", "b", [8.0], [1], [])]
    assert spread(groups) == pytest.approx({"mean": 4.0, "std": (26 / 3) ** 0.5})
    assert spread([]) == {}
