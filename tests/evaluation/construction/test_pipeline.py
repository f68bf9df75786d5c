"""Test the whole way from digits to a published benchmark: judges of different quality, scripted annotators, kappa by
hand arithmetic, and hardness that a further judge shows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from basereward import load
from basereward.cli import main
from basereward.evaluation.benchmark import load_benchmark
from basereward.evaluation.construction.annotations import VerificationPlan
from basereward.evaluation.construction.publish import publish
from basereward.evaluation.construction.select import select
from basereward.evaluation.construction.selected_rows import read_rows
from basereward.evaluation.construction.verify import PlanChanges, Verification
from tests.helpers.construction import DIGITS, adjudicate_all, annotate_all, digit_judges, is_one_of

NOISE = (0.6, 0.9, 1.2, 1.5)
"""Of the judges that select; the further judge has 1.0."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of all tests of this module, with five judges."""
    folder = tmp_path_factory.mktemp("construction")
    digit_judges(folder / "judges", noise=(*NOISE, 1.0))
    return folder


@pytest.fixture(scope="module")
def selection(place: Path) -> Path:
    """Select from 200 pairs of digits by four judges, with the fifth as the probe."""
    judges = [str(place / "judges" / f"judge_{number}") for number in range(5)]
    out = place / "selection"
    select(["digits"], judges=judges[:4], probe=judges[4], out=str(out), overrides=DIGITS)
    return out


def lines(file: Path) -> list[dict[str, Any]]:
    """Read a JSON Lines file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_selected_pairs_are_those_that_all_judges_get_wrong(selection: Path, place: Path) -> None:
    """The recorded votes of every candidate are those of `load(judge).score`, and a pair is kept iff four are wrong."""
    decisions = lines(selection / "decisions.jsonl")
    assert len(decisions) == 200
    kept = [line["id"] for line in decisions if line["decision"] == "kept"]
    assert kept == [line["id"] for line in decisions if set(map(tuple, line["judges"].values())) == {("wrong",)}]
    rows = read_rows(selection)
    assert [row.id for row in rows if row.selected] == kept
    assert len(kept) >= 15
    model = load(str(place / "judges" / "judge_1"))
    for row in rows[:10]:
        images = [selection / image for image in row.images]
        scores = model.score(list(row.prompt), list(row.responses), images=images)
        is_right = scores[row.preferred] > scores[1 - row.preferred]
        assert row.judges["judge_1"] == ["right" if is_right else "wrong"]
    facts = json.loads((selection / "selection.json").read_text())
    assert facts["decisions"] == dict(sorted(Counter(line["decision"] for line in decisions).items()))
    for judge in facts["judges"]:
        right = sum(line["judges"][judge["name"]] == ["right"] for line in decisions)
        assert (judge["right"], judge["accuracy"]["numerator"]) == (right, right)
    assert len({judge["right"] for judge in facts["judges"]}) > 1


def test_selected_pairs_are_harder_than_the_control_sample(selection: Path) -> None:
    """The fifth judge did not select. Its accuracy on the kept pairs is below that on as many random pairs of the
    source, and the 95 % interval of the difference is below 0. The control sample holds kept pairs too."""
    rows = read_rows(selection)
    kept, control = [row for row in rows if row.selected], [row for row in rows if row.control]
    assert len(control) == len(kept)
    (hardness,) = json.loads((selection / "selection.json").read_text())["hardness"]
    right = [sum(row.probe["judge_4"] == ["right"] for row in part) for part in (kept, control)]
    assert hardness["kept"] == pytest.approx(right[0] / len(kept))
    assert hardness["control"] == pytest.approx(right[1] / len(control))
    assert hardness["difference"] == pytest.approx((right[0] - right[1]) / len(kept))
    assert hardness["low"] < hardness["difference"] < hardness["high"] < 0


def test_verified_pairs_become_a_benchmark(
    selection: Path, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ann makes no errors, and Bob has the wrong label on about one pair in five. Both see all pairs, and another
    person adjudicates. Kappa, counts and tags are those of hand arithmetic over the pairs on which Bob errs, and the
    published benchmark has exactly the good pairs, with counts by source and tag."""
    monkeypatch.chdir(place)
    names = [row.id for row in read_rows(selection) if row.selected]
    truth = {name: "wrong" if is_one_of(name, 4, salt="truth") else "right" for name in names}
    errs = {name for name in names if is_one_of(name, 5, salt="bob")}
    other = {"right": "wrong", "wrong": "right"}
    ambiguous = {name for name in names if is_one_of(name, 6, salt="ambiguous")}
    people = {
        "ann": lambda pair, label: (label, pair in ambiguous, ["counting", "existence"]),
        "bob": lambda pair, label: (other[label] if pair in errs else label, pair in ambiguous, ["counting"]),
    }
    assert errs
    assert ambiguous - errs
    with Verification(selection, PlanChanges(overlap=1.0)) as verification:
        annotate_all(verification, people, truth)
        before = verification.summary()
        assert adjudicate_all(verification, "carol", truth) == len(errs)
        summary = verification.summary()
    assert (before["disputed"], before["pending"]) == (len(errs), 0)
    _check_agreement(summary["agreement"]["label"], truth, errs)
    # Adjudicated pairs are not ambiguous here.
    dropped_as_ambiguous = {name for name in ambiguous - errs if truth[name] == "right"}
    good = {name for name in names if truth[name] == "right"} - dropped_as_ambiguous
    assert summary["dropped"] == {
        "label_wrong": sum(label == "wrong" for label in truth.values()),
        "ambiguous": len(dropped_as_ambiguous),
    }
    assert (summary["kept"], summary["adjudicated"]) == (len(good), len(errs))
    assert summary["tags"]["counting"] == summary["tags"]["existence"] == len(good - errs)
    assert summary["tags"]["other"] == len(good & errs)
    assert summary["seconds"]["sum"] == 4.0 * len(names) + len(errs)
    published = publish(str(selection), out=str(place / "hard_digits"))
    assert (published["pairs"], published["left_out"]) == (len(good), 0)
    benchmark = load_benchmark("hard_digits/hard_digits.yaml")
    assert ({item.id for item in benchmark.items}, benchmark.partial) == (good, None)
    assert main(["eval", "judges/judge_0", "--benchmark", "hard_digits/hard_digits.yaml", "--json"]) == 0
    measures = json.loads(capsys.readouterr().out)["hard_digits"]
    # The judge is wrong on all of them: it has selected them.
    assert (measures["pairs"]["overall"]["numerator"], measures["pairs"]["overall"]["denominator"]) == (0, len(good))
    assert measures["by_tag"]["tag: other"]["denominator"] == len(good & errs)
    assert measures["by_tag"]["tag: existence"]["denominator"] == len(good - errs)
    assert measures["pairs"]["source: digits"]["denominator"] == len(good)
    control = load_benchmark("hard_digits/hard_digits-control.yaml")
    assert len(control.items) == published["control"] == len(names)
    card = (place / "hard_digits" / "README.md").read_text()
    assert f"| digits | {len(good)} | 100.0% |" in card
    assert "ann |" not in card
    assert f"{len(names)} of the pairs were annotated by several people (planned: 100% of all pairs" in card
    released = (place / "hard_digits" / "annotations.jsonl").read_text()
    assert {line["annotator"] for line in map(json.loads, released.splitlines())} == {
        "annotator_1", "annotator_2", "annotator_3",
    }  # fmt: skip


def _check_agreement(facts: dict[str, Any], truth: dict[str, str], errs: set[str]) -> None:
    """Compare exact agreement, Cohen's and Fleiss' kappa with hand arithmetic: Ann says the truth, and Bob the other
    label on `errs`."""
    pairs = len(truth)
    ann = sum(label == "right" for label in truth.values()) / pairs
    bob = sum((label == "right") != (name in errs) for name, label in truth.items()) / pairs
    observed = 1 - len(errs) / pairs
    chance = ann * bob + (1 - ann) * (1 - bob)
    both = (ann + bob) / 2
    pooled = both**2 + (1 - both) ** 2
    assert facts["items"] == pairs
    assert facts["exact"]["value"] == pytest.approx(observed)
    assert facts["cohen"]["value"] == pytest.approx((observed - chance) / (1 - chance))
    assert facts["fleiss"]["value"] == pytest.approx((observed - pooled) / (1 - pooled))
    for name in ("exact", "cohen", "fleiss"):
        assert facts[name]["low"] < facts[name]["value"] < facts[name]["high"]


def test_published_rows_can_be_trained_on(selection: Path, place: Path) -> None:
    """The rows of the benchmark are rows of a source: each gives a group with the preferred response and its image."""
    from basereward.data.sources.jsonl import read_rows as read_groups

    rows = lines(place / "hard_digits" / "hard_digits.jsonl")
    for row, group in zip(rows, read_groups(place / "hard_digits" / "hard_digits.jsonl"), strict=True):
        (preference,) = group.preferences
        assert [preference.winner, preference.loser] == row["preferences"][0]
        assert Path(str(group.images[0])).is_file()


def test_plan_is_fixed_by_the_first_call(selection: Path) -> None:
    """The plan of the file is kept when no option is given."""
    with Verification(selection) as verification:
        assert verification.annotations.plan == VerificationPlan(overlap=1.0)
