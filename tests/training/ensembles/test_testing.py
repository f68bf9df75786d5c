"""What an ensemble's test does with rows that cannot be scored, and how much it holds at once."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from basereward.data.encoding.encoder import EncodedGroup, EncodingError
from basereward.data.schema.group import Group, RejectedRow
from basereward.data.schema.rejections import write_rejections
from basereward.errors import DataError, TooManyRowsLost
from basereward.inference.ensemble import Member
from basereward.inference.group_scores import ScoresGroups
from basereward.recipe import load_recipe, recipe_yaml
from basereward.runs.run_folder import RunFolder
from basereward.training.ensembles import testing as ensemble_test
from basereward.training.ensembles.testing import WINDOW, run_test
from tests.helpers.support import encoded_group, only, write_rows

ROOT = Path(__file__).parents[3]
Test = Callable[..., dict[str, Any]]


class Reader(ScoresGroups):
    """Prefers the longer answer, cannot read what has the word `hard` in it, and counts what it holds."""

    def __init__(self) -> None:
        self.held: list[int] = []

    def encode(self, group: Group) -> EncodedGroup:
        text = group.prompt[-1].parts[-1].text or ""
        if "hard" in text:
            loss = EncodingError("too_long", "9 tokens of 8")
            raise DataError(f"'{group.id}' cannot be scored") from loss
        return encoded_group(
            3, [len(response) for response in group.responses], group.preferences, name=group.id, source=group.source
        )

    def score_encoded(
        self, groups: Iterable[EncodedGroup], *, tokens: int | None = None, latencies: list[float] | None = None
    ) -> Iterator[list[list[float]]]:
        some = list(groups)
        self.held.append(len(some))
        yield [[float(len(branch)) for branch in group.branches] for group in some]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """The ensemble's."""
    monkeypatch.setenv("BASEREWARD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
    return RunFolder.create("", recipe_sha256="", name="both", kind="ensemble")


def member(
    tmp_path: Path, *, rows: int = 40, hard: int = 0, empty: int = 0, max_lost: float = 0.1, lost: int = 0
) -> Member:
    """Of a run on so many test rows: the first are hard, the next have an answer of nothing. It lost as many of them
    itself as `lost` says."""
    pairs = [
        {
            "id": f"row-{i}",
            "prompt": f"{'hard' if i < hard else 'easy'} {i}",
            "chosen": "longer",
            "rejected": "" if hard <= i < hard + empty else "short",
        }
        for i in range(rows)
    ]
    test = write_rows(tmp_path / "test.jsonl", pairs)
    train = write_rows(tmp_path / "train.jsonl", [{"prompt": "another", "chosen": "a", "rejected": "b"}])
    changes = [*only(train), f"data.sources.mine.test={test}", f"data.max_lost={max_lost}"]
    own = RunFolder.create("", recipe_sha256="", name="member")
    own.model.mkdir()
    (own.model / "recipe.yaml").write_text(recipe_yaml(load_recipe("basereward", overrides=changes)))
    write_rejections(own.rejections, [RejectedRow("mine", "test", f"row-{i}", "too_long", "") for i in range(lost)])
    return Member(own.run_id, own.model, "digest")


@pytest.fixture
def test(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> Test:
    """Tests an ensemble of members on these rows, scored by a `Reader`."""
    monkeypatch.setattr(ensemble_test, "load", lambda folder: Reader())
    return lambda *members: run_test(run, members)


def listed(run: RunFolder) -> list[tuple[str, str, bool]]:
    """Id, reason and fault of the lost rows of an ensemble."""
    rows = [json.loads(line) for line in run.rejections.read_text().splitlines()]
    return [(row["id"], row["reason"], row["fault"]) for row in rows]


def test_lost_rows_are_counted_listed_and_told(
    test: Test, run: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two that are too long and one without an answer, of forty; the other 37 are all right."""
    with caplog.at_level(logging.WARNING):
        result = test(member(tmp_path, hard=2, empty=1))
    assert result["skipped"] == {"mine": {"empty_response": 1, "too_long": 2}}
    assert result["metrics"]["test/mine/pairs"] == 37
    assert result["metrics"]["test/pair_accuracy"] == 1.0
    assert sorted(listed(run)) == [
        ("row-0", "too_long", True),
        ("row-1", "too_long", True),
        ("row-2", "empty_response", True),
    ]
    assert "3 of 40 test rows" in caplog.text
    assert f"{result['skipped']}; listed in {run.rejections}" in caplog.text


def test_more_than_any_member_allows_is_no_test(test: Test, run: RunFolder, tmp_path: Path) -> None:
    """Three of forty are more than 5 %, and listed; a member that allows 10 % of its rows to be lost lets them."""
    strict = member(tmp_path, hard=3, max_lost=0.05)
    with pytest.raises(TooManyRowsLost, match=r"(?s)3 of 40 rows \(7.50%\).*max_lost allows 5.00%.*'row-0' cannot be"):
        test(strict)
    assert len(listed(run)) == 3
    assert not (run.scores / "test.jsonl").exists()
    assert test(strict, member(tmp_path, hard=3, max_lost=0.1))["skipped"] == {"mine": {"too_long": 3}}


def test_rows_that_a_member_lost_before_are_not_held_against_the_ensemble(test: Test, tmp_path: Path) -> None:
    """Its training was allowed to lose them; the third is new, and 2.5 %."""
    before = member(tmp_path, hard=3, max_lost=0.05, lost=2)
    assert test(before)["skipped"] == {"mine": {"too_long": 3}}


def test_a_source_of_which_every_row_is_lost_is_no_test(test: Test, tmp_path: Path) -> None:
    """Whatever may be lost, and whoever lost it before."""
    with pytest.raises(TooManyRowsLost, match="every row of mine is rejected"):
        test(member(tmp_path, rows=3, hard=3, max_lost=1.0, lost=3))


def test_groups_are_encoded_and_scored_in_windows(run: RunFolder, tmp_path: Path, monkeypatch: Any) -> None:
    """So many at once at most, in their order; seconds and tokens are of all."""
    reader = Reader()
    monkeypatch.setattr(ensemble_test, "load", lambda folder: reader)
    rows = 2 * WINDOW + 5
    result = run_test(run, [member(tmp_path, rows=rows)])
    assert reader.held == [WINDOW, WINDOW, 5]
    score_rows = [json.loads(line) for line in (run.scores / "test.jsonl").read_text().splitlines()]
    assert [row["id"] for row in score_rows] == [f"row-{i}" for i in range(rows)]
    assert result["metrics"]["test/tokens_per_pair"] == 3 + len("longer") + len("short")
    assert not run.rejections.exists()
