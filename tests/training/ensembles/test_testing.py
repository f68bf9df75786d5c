"""Test an ensemble's test run: rows that cannot be scored, and the number of groups in memory."""

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
from basereward.inference.group_scores import ScoresEncodedGroups
from basereward.recipe import load_recipe, recipe_yaml
from basereward.runs.run_folder import RunFolder
from basereward.training.ensembles import testing as ensemble_test
from basereward.training.ensembles.testing import WINDOW, run_test
from tests.helpers.support import encoded_group, only, write_rows

ROOT = Path(__file__).parents[3]
Test = Callable[..., dict[str, Any]]


class Reader(ScoresEncodedGroups):
    """A model that prefers the longer answer, cannot read prompts with the word `hard`, and records its batch sizes."""

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []

    def encode(self, group: Group) -> EncodedGroup:
        text = group.prompt[-1].parts[-1].text or ""
        if "hard" in text:
            error = EncodingError("too_long", "9 tokens of 8")
            raise DataError(f"'{group.id}' cannot be scored") from error
        return encoded_group(
            3, [len(response) for response in group.responses], group.preferences, name=group.id, source=group.source
        )

    def score_encoded(
        self, groups: Iterable[EncodedGroup], *, tokens: int | None = None, latencies: list[float] | None = None
    ) -> Iterator[list[list[float]]]:
        window = list(groups)
        self.batch_sizes.append(len(window))
        yield [[float(len(branch)) for branch in group.branches] for group in window]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """Return the run of the ensemble."""
    monkeypatch.setenv("BASEREWARD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
    return RunFolder.create("", recipe_sha256="", name="both", kind="ensemble")


def member(
    tmp_path: Path, *, rows: int = 40, hard: int = 0, empty: int = 0, max_lost: float = 0.1, lost: int = 0
) -> Member:
    """Return a member whose run has `rows` test rows: the first are hard, the next have an empty answer, and the run
    itself lost `lost` of them."""
    pairs = [
        {
            "id": f"row-{index}",
            "prompt": f"{'hard' if index < hard else 'easy'} {index}",
            "chosen": "longer",
            "rejected": "" if hard <= index < hard + empty else "short",
        }
        for index in range(rows)
    ]
    test = write_rows(tmp_path / "test.jsonl", pairs)
    train = write_rows(tmp_path / "train.jsonl", [{"prompt": "another", "chosen": "a", "rejected": "b"}])
    changes = [*only(train), f"data.sources.mine.test={test}", f"data.max_lost={max_lost}"]
    member_run = RunFolder.create("", recipe_sha256="", name="member")
    member_run.model.mkdir()
    (member_run.model / "recipe.yaml").write_text(recipe_yaml(load_recipe("basereward", overrides=changes)))
    write_rejections(
        member_run.rejections, [RejectedRow("mine", "test", f"row-{index}", "too_long", "") for index in range(lost)]
    )
    return Member(member_run.run_id, member_run.model, "digest")


@pytest.fixture
def test(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> Test:
    """Return a function that tests an ensemble of members on these rows with a `Reader`."""
    monkeypatch.setattr(ensemble_test, "load", lambda folder: Reader())
    return lambda *members: run_test(run, members)


def listed(run: RunFolder) -> list[tuple[str, str, bool]]:
    """Return id, reason and fault of the ensemble's lost rows."""
    rows = [json.loads(line) for line in run.rejections.read_text().splitlines()]
    return [(row["id"], row["reason"], row["fault"]) for row in rows]


def test_lost_rows_are_counted_listed_and_logged(
    test: Test, run: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two of forty rows are too long and one has an empty answer; the other 37 are right."""
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


def test_more_lost_rows_than_every_member_allows_are_refused(test: Test, run: RunFolder, tmp_path: Path) -> None:
    """Three of forty lost rows exceed 5 % and are listed; with a second member that allows 10 % the test runs."""
    strict = member(tmp_path, hard=3, max_lost=0.05)
    with pytest.raises(TooManyRowsLost, match=r"(?s)3 of 40 rows \(7.50%\).*max_lost allows 5.00%.*'row-0' cannot be"):
        test(strict)
    assert len(listed(run)) == 3
    assert not (run.scores / "test.jsonl").exists()
    assert test(strict, member(tmp_path, hard=3, max_lost=0.1))["skipped"] == {"mine": {"too_long": 3}}


def test_rows_that_a_member_already_lost_do_not_count(test: Test, tmp_path: Path) -> None:
    """The member's training lost two of them; only the third is new, which is 2.5 %."""
    before = member(tmp_path, hard=3, max_lost=0.05, lost=2)
    assert test(before)["skipped"] == {"mine": {"too_long": 3}}


def test_source_with_every_row_lost_is_refused(test: Test, tmp_path: Path) -> None:
    """This holds for every limit and also for rows that a member already lost."""
    with pytest.raises(TooManyRowsLost, match="every row of mine is rejected"):
        test(member(tmp_path, rows=3, hard=3, max_lost=1.0, lost=3))


def test_groups_are_encoded_and_scored_in_windows(run: RunFolder, tmp_path: Path, monkeypatch: Any) -> None:
    """At most WINDOW groups are in memory, in their order, and the metrics cover all groups."""
    reader = Reader()
    monkeypatch.setattr(ensemble_test, "load", lambda folder: reader)
    rows = 2 * WINDOW + 5
    result = run_test(run, [member(tmp_path, rows=rows)])
    assert reader.batch_sizes == [WINDOW, WINDOW, 5]
    score_rows = [json.loads(line) for line in (run.scores / "test.jsonl").read_text().splitlines()]
    assert [row["id"] for row in score_rows] == [f"row-{i}" for i in range(rows)]
    assert result["metrics"]["test/tokens_per_pair"] == 3 + len("longer") + len("short")
    assert not run.rejections.exists()
