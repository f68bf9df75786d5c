"""Test that pages show a judge's accuracy by votes, by kind of error and by source, as hand arithmetic gives it."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from basereward.evaluation.benchmarks.verified_pairs import VerifiedPairs
from basereward.evaluation.items import Item, JudgedItem, Outcome
from basereward.evaluation.reports.evaluation_report import report
from basereward.evaluation.write_evaluation import write_evaluation
from tests.helpers.support import write_rows

# Source, tags and three votes of each pair; the answer 0 is right.
PAIRS = (
    ("coco", "existence", (0, 0, 1)),
    ("coco", "counting", (1, 1, 0)),
    ("sbu", "existence, counting", (0, 0, 0)),
    ("sbu", "untagged", (1, None, 0)),
    ("sbu", "existence", (0, 0, 0)),
)
# The majority is right for the first, third and last; the fourth has none. One vote is right with 2/3, 1/3, 1, 1/3 and
# 1; three votes are all that there are. The macro value is the mean of the two sources.
EXPECTED = {
    ("pairs", "overall"): 3 / 5,
    ("pairs", "macro"): (1 / 2 + 2 / 3) / 2,
    ("pairs", "source: coco"): 1 / 2,
    ("pairs", "source: sbu"): 2 / 3,
    ("by_tag", "overall"): 3 / 5,
    ("by_tag", "tag: existence"): 3 / 3,
    ("by_tag", "tag: counting"): 1 / 2,
    ("by_tag", "tag: untagged"): 0 / 1,
    ("over_votes", "overall"): 3 / 5,
    ("over_votes", "votes_1"): (2 / 3 + 1 / 3 + 1 + 1 / 3 + 1) / 5,
    ("over_votes", "macro votes_1"): ((2 / 3 + 1 / 3) / 2 + (1 + 1 / 3 + 1) / 3) / 2,
    ("over_votes", "votes_3"): 3 / 5,
    ("over_votes", "macro votes_3"): (1 / 2 + 2 / 3) / 2,
}

# The number of pairs of a part; a pair with two tags is in both.
PARTS = {
    ("pairs", "source: coco"): 2,
    ("pairs", "source: sbu"): 3,
    ("by_tag", "tag: existence"): 3,
    ("by_tag", "tag: counting"): 2,
    ("by_tag", "tag: untagged"): 1,
    ("over_votes", "votes_1"): 5,
    ("over_votes", "votes_3"): 5,
}


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    """Return the folder of an evaluation of a judge with three votes, in the format of `eval`."""
    judged: list[JudgedItem] = []
    for number, (source, tags, votes) in enumerate(PAIRS):
        labels = {"source": source, "tags": tags}
        item = Item(number, f"{number}", "?", ("4", "5"), (0,), (1,), f"{number}", labels)
        judged.append(JudgedItem(item, Outcome(votes=votes)))
    variants = VerifiedPairs("mine", path=str(write_rows(tmp_path / "rows.jsonl", []))).variants
    measures = {
        name: {metric: measure.as_dict() | {"baselines": {}} for metric, measure in variant(judged).items()}
        for name, variant in variants.items()
        if name in {variant for variant, _ in EXPECTED}
    }
    head = {"benchmark": "mine", "version": "1", "digest": "0", "name": "judge", "model": "judge", "run_id": None}
    head |= {"kind": "verdicts", "order": "random", "votes": 3, "items": 5, "scored": 5, "expected": 5}
    folder = tmp_path / "evaluation"
    folder.mkdir()
    write_evaluation(folder, head | {"partial": None, "fingerprint": None, "variants": measures}, judged)
    return folder


def test_numbers_and_figures_by_votes_tags_and_sources(evaluated: Path, tmp_path: Path) -> None:
    """The table of numbers has each share with an interval around it, the page has the same in percent, and each of the
    three variants has a figure of its parts."""
    made = report([str(evaluated)], out=str(tmp_path / "page.html"))
    with Path(made["csv"]).open() as file:
        rows = {(row["variant"], row["metric"]): row for row in csv.DictReader(file) if row["source"] == "measured"}
    assert {key: float(row["value"]) for key, row in rows.items()} == pytest.approx(EXPECTED)
    for key, value in EXPECTED.items():
        assert float(rows[key]["low"]) <= value + 1e-9
        assert float(rows[key]["high"]) >= value - 1e-9
    assert {key: float(rows[key]["denominator"]) for key in PARTS} == PARTS
    document = Path(made["out"]).read_text(encoding="utf-8")
    for value in EXPECTED.values():
        assert f'"{100 * value:.2f}"' in document
    figures = {re.sub(r".*mine-1-|\.png", "", name) for name in made["figures"]}
    assert figures == {"forest", "pairs", "by_tag", "over_votes"}
