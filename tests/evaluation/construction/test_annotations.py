"""Test who gets which pair, what is decided about it, and the file of annotations after damage and with other plans."""

from __future__ import annotations

import errno
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from basereward.errors import DataError
from basereward.evaluation.construction import annotations as module
from basereward.evaluation.construction.annotations import Annotation, AnnotationFile, Role, VerificationPlan, decide
from basereward.evaluation.construction.publish import publish
from basereward.evaluation.construction.select import select
from basereward.evaluation.construction.verify import PlanChanges, Verification, summarize
from basereward.io import journal as module_of_journal
from tests.helpers.construction import adjudicate_all, annotate_all, text_selection
from tests.helpers.support import picture, write_rows

TAGS = ("existence", "counting")
ITEMS = [f"pair {number}" for number in range(10)]


def opened(folder: Path, **options: Any) -> AnnotationFile:
    """Open the file of ten pairs."""
    plan = VerificationPlan(tags=TAGS, **options)
    return AnnotationFile(folder / "annotations.jsonl", items=ITEMS, plan=plan, selection="rows")


def said(item: str, name: str, label: str = "right", *, role: Role = "annotator", **options: Any) -> Annotation:
    """Return what a person decided."""
    return Annotation(item, name, role, label, **{"ambiguous": False, **options})


def give(file: AnnotationFile, item: str, name: str) -> None:
    """Give a pair to a person, as if it were the next one in the queue."""
    order, file.order = file.order, [item]
    assert file.next_item(annotator=name, role="annotator") == item
    file.order = order


def decisions(path: Path) -> list[dict[str, Any]]:
    """Return the decisions in a file of annotations."""
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    return [line for line in lines if "given" not in line]


def test_overlap_is_seen_by_several_annotators(tmp_path: Path) -> None:
    """At an overlap of 0.3 and three raters, four people who take turns annotate seven pairs once and three pairs three
    times, and nobody sees a pair twice."""
    with opened(tmp_path, overlap=0.3, raters=3) as file:
        people = ["ann", "bob", "carol", "dave"]
        seen: list[tuple[str, str]] = []
        while people:
            name = people.pop(0)
            item = file.next_item(annotator=name, role="annotator")
            if item is not None:
                file.add(said(item, name))
                seen.append((item, name))
                people.append(name)
    assert len(set(seen)) == len(seen) == 7 + 3 * 3
    assert sorted(Counter(item for item, _ in seen).values()) == [1] * 7 + [3] * 3


def test_pair_in_view_is_not_given_to_another_annotator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two people who open their pages at once get different pairs. After half an hour without a decision the first
    person's pair is given to others; asking again gives the same person the same pair."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with opened(tmp_path, overlap=0.0) as file:
        first = file.next_item(annotator="ann", role="annotator")
        second = file.next_item(annotator="bob", role="annotator")
        assert first != second
        assert file.next_item(annotator="ann", role="annotator") == first
        assert second is not None
        file.add(said(second, "bob"))
        now[0] = 1_900.0
        assert file.next_item(annotator="bob", role="annotator") == first


def test_decisions() -> None:
    """Annotators must agree on label and ambiguity; an adjudicator decides for them, and the last one counts. Tags need
    half of the annotators."""
    ann, bob, eve = said("a", "ann", tags=("existence",)), said("a", "bob"), said("a", "eve", tags=("existence",))
    assert decide([ann], needed=2, tags=TAGS).state == "pending"
    agreed = decide([ann, bob, eve], needed=3, tags=TAGS)
    assert (agreed.state, agreed.kept, agreed.tags, agreed.annotators) == ("verified", True, ("existence",), 3)
    assert decide([said("a", "x"), bob, eve], needed=3, tags=TAGS).tags == ()
    assert decide([ann, said("a", "bob", "wrong")], needed=2, tags=TAGS).state == "disputed"
    unclear = [ann, said("a", "bob", ambiguous=True)]
    assert decide(unclear, needed=2, tags=TAGS).state == "disputed"
    reviewed = decide([*unclear, said("a", "eve", ambiguous=True, role="adjudicator")], needed=2, tags=TAGS)
    assert (reviewed.state, reviewed.kept, reviewed.adjudicated) == ("verified", False, True)
    assert not decide([said("a", "ann", "wrong")], needed=1, tags=TAGS).kept


def test_file_continues_after_an_incomplete_line(tmp_path: Path) -> None:
    """A line that a kill has cut is removed, and the others stay; corrections replace earlier decisions."""
    with opened(tmp_path) as file:
        give(file, "pair 3", "ann")
        file.add(said("pair 3", "ann"))
        file.add(said("pair 3", "ann", "wrong"))
        give(file, "pair 4", "ann")
        file.add(said("pair 4", "ann"))
        give(file, "pair 5", "ann")
    path = tmp_path / "annotations.jsonl"
    with path.open("a") as lines:
        lines.write('{"item": "pair 5", "annota')
    with opened(tmp_path) as file:
        assert [file.own(f"pair {n}", annotator="ann", role="annotator") for n in (3, 4, 5)] == [
            said("pair 3", "ann", "wrong"),
            said("pair 4", "ann"),
            None,
        ]
        assert file.done(annotator="ann", role="annotator") == 2
        assert file.previous_item(None, annotator="ann", role="annotator") == "pair 4"
        file.add(said("pair 5", "ann"))
    assert [line["item"] for line in decisions(path)] == ["pair 3", "pair 3", "pair 4", "pair 5"]


def test_full_disk_loses_no_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes half of a line. The decision is refused, and saved by the next try; the file is not damaged."""
    write = os.write
    with opened(tmp_path) as file:
        for item in ("pair 1", "pair 2"):
            give(file, item, "ann")
            monkeypatch.setattr(module_of_journal.os, "write", HalfFull(write))
            with pytest.raises(OSError, match="No space"):
                file.add(said(item, "ann"))
            monkeypatch.setattr(module_of_journal.os, "write", write)
            assert file.own(item, annotator="ann", role="annotator") is None
            file.add(said(item, "ann"))
    with opened(tmp_path) as file:
        assert file.done(annotator="ann", role="annotator") == 2


class HalfFull:
    """Writes half of what it gets, and then fails as a full disk does."""

    def __init__(self, write: Callable[[int, bytes], int]) -> None:
        self.write, self.is_full = write, False

    def __call__(self, descriptor: int, content: bytes) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.is_full = True
        return self.write(descriptor, content[: len(content) // 2])


@pytest.mark.parametrize("fault", ["missing", "changed"])
def test_images_that_are_missing_or_changed_are_refused(tmp_path: Path, fault: str) -> None:
    """Nobody decides about other images than those that were selected, and they are not published."""
    picture(1).save(tmp_path / "1.png")
    row = {"id": "a", "prompt": "?", "chosen": "yes", "rejected": "no, never", "images": ["1.png"]}
    write_rows(tmp_path / "pairs.jsonl", [row])
    select([str(tmp_path / "pairs.jsonl")], judges=["longer"], out=str(tmp_path / "selection"))
    (file,) = (tmp_path / "selection" / "images").iterdir()
    if fault == "missing":
        file.unlink()
    else:
        picture(2).save(file)
    with pytest.raises(DataError, match=file.name):
        Verification(tmp_path / "selection")
    with pytest.raises(DataError, match=file.name):
        publish(str(tmp_path / "selection"), out=str(tmp_path / "out"), allow_partial=True)


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{",
        '{"item": "pair 1"}',
        json.dumps(said("pair 99", "ann").as_dict()),
        json.dumps(said("pair 1", "ann", tags=("evil",)).as_dict()),
        '{"given": "pair 99", "annotator": "ann", "role": "annotator", "time": "2026-01-01T00:00:00Z"}',
        '{"given": "pair 1", "annotator": "ann", "role": "annotator", "time": "yesterday"}',
        '{"given": "pair 1", "annotator": "ann", "role": "annotator"}',
        '{"given": "pair 1", "role": "annotator", "time": "2026-01-01T00:00:00Z"}',
        '{"given": ["pair 1"]}',
    ],
)
def test_damaged_line_is_an_error_that_names_it(tmp_path: Path, line: str) -> None:
    """Nothing is guessed of a line that is no annotation of these pairs, and the file is not locked after the error."""
    with opened(tmp_path) as file:
        give(file, "pair 1", "ann")
        file.add(said("pair 1", "ann"))
    path = tmp_path / "annotations.jsonl"
    content = path.read_text()
    path.write_text(f"{content}{line}\n")
    with pytest.raises(DataError, match=r"annotations\.jsonl:4"):
        opened(tmp_path)
    path.write_text(content)
    opened(tmp_path).close()


def test_other_plan_is_refused_after_the_first_pair(tmp_path: Path) -> None:
    """A summary, and a call in which nobody gets a pair, fix nothing. Then options that differ from those of the file
    are an error; without options it keeps its own. One process at a time has the file; no selection replaces it."""
    selection = text_selection(tmp_path, pairs=5)
    assert summarize(str(selection))["pending"] == 5
    with Verification(selection, PlanChanges(overlap=1.0, raters=5)), pytest.raises(DataError, match="verify"):
        text_selection(tmp_path, pairs=6)
    with Verification(selection, PlanChanges(overlap=0.5, tags=("a", "b"))) as verification:
        assert verification.annotations.next_item(annotator="ann", role="annotator") is not None
        assert verification.annotations.plan == VerificationPlan(overlap=0.5, tags=("a", "b"))
        with pytest.raises(DataError, match="another process"):
            Verification(selection)
    with pytest.raises(DataError, match="overlap"):
        Verification(selection, PlanChanges(overlap=0.7))
    with Verification(selection) as verification:
        assert verification.annotations.plan == VerificationPlan(overlap=0.5, tags=("a", "b"))
    rows = (selection / "rows.jsonl").read_text()
    (selection / "rows.jsonl").write_text(rows.replace("Question 1.", "Question one."))
    with pytest.raises(DataError, match="selection"):
        Verification(selection)


@pytest.mark.parametrize(
    "changes",
    [
        PlanChanges(overlap=1.5),
        PlanChanges(raters=1),
        PlanChanges(tags=()),
        PlanChanges(tags=("a", "a")),
        PlanChanges(tags=("a,b",)),
        PlanChanges(tags=tuple("abcdefghij")),
    ],
)
def test_plans_out_of_range_are_refused(changes: PlanChanges) -> None:
    """Shares above 1, a single rater, and no, repeated, too many or ambiguous tags."""
    with pytest.raises(DataError):
        changes.apply(VerificationPlan())


def test_three_raters_agree_as_by_hand(tmp_path: Path) -> None:
    """Of 20 pairs, three annotators say right, except that one says wrong on 5. Fleiss: observed (15 + 5 / 3) / 20, and
    wrong has 5 of 60 ratings. Cohen's kappa of a pair with that annotator is 0, of the other two it is undefined."""
    selection = text_selection(tmp_path, pairs=20)
    with Verification(selection, PlanChanges(overlap=1.0, raters=3)) as verification:
        odd = list(verification.rows)[:5]
        people = {name: lambda pair, label: (label, False, []) for name in ("ann", "bob")}
        people["eve"] = lambda pair, label: ("wrong" if pair in odd else label, False, [])
        annotate_all(verification, people, dict.fromkeys(verification.rows, "right"))
        facts = verification.summary()["agreement"]["label"]
    observed, share = (15 + 5 / 3) / 20, 5 / 60
    chance = share**2 + (1 - share) ** 2
    assert facts["items"] == 20
    assert facts["exact"]["value"] == pytest.approx(0.75)
    assert facts["fleiss"]["value"] == pytest.approx((observed - chance) / (1 - chance))
    kappas = {tuple(pair["annotators"]): pair["cohen"]["value"] for pair in facts["pairs"]}
    assert kappas == {("ann", "bob"): None, ("ann", "eve"): 0.0, ("bob", "eve"): 0.0}
    assert facts["cohen"]["value"] == 0.0


def test_adjudicator_is_another_person(tmp_path: Path) -> None:
    """Somebody who annotated a disputed pair is not asked to adjudicate it and cannot do so; somebody else can."""
    selection = text_selection(tmp_path, pairs=1)
    with Verification(selection, PlanChanges(overlap=1.0)) as verification:
        (item,) = verification.rows
        for name, label in (("ann", "right"), ("bob", "wrong")):
            assert verification.annotations.next_item(annotator=name, role="annotator") == item
            verification.annotations.add(said(item, name, label))
        assert verification.annotations.next_item(annotator="ann", role="adjudicator") is None
        with pytest.raises(DataError):
            verification.annotations.add(said(item, "ann", role="adjudicator"))
        assert adjudicate_all(verification, "carol", {item: "wrong"}) == 1
        assert verification.decisions[item].label == "wrong"


def test_pair_of_others_is_not_saved(tmp_path: Path) -> None:
    """Only the person to whom a pair was given may save it, needed or not, and may correct it later."""
    with opened(tmp_path, overlap=0.0) as file:
        shown = file.next_item(annotator="ann", role="annotator")
        assert shown is not None
        with pytest.raises(DataError, match="bob"):
            file.add(said(shown, "bob"))
        file.add(said(shown, "ann"))
        file.add(said(shown, "ann", "wrong"))
        with pytest.raises(DataError, match="bob"):
            file.add(said(shown, "bob"))
        assert [one.annotator for one in file.of_item(shown)] == ["ann"]
        needed = next(item for item in file.order if item != shown)
        with pytest.raises(DataError, match="bob"):
            file.add(said(needed, "bob"))


def test_pairs_are_given_to_the_same_people_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page that a person has open may save its pair, nobody else may, and it is given to nobody else for half
    an hour from the time in the file. A correction of an earlier pair does not take the person's pair away."""
    with opened(tmp_path, overlap=0.0) as file:
        earlier = file.next_item(annotator="ann", role="annotator")
        assert earlier is not None
        file.add(said(earlier, "ann"))
        shown = file.next_item(annotator="ann", role="annotator")
        assert shown is not None
    with opened(tmp_path, overlap=0.0) as file:
        with pytest.raises(DataError, match="bob"):
            file.add(said(shown, "bob"))
        assert file.next_item(annotator="bob", role="annotator") not in (shown, None)
        file.add(said(earlier, "ann", "wrong"))
        file.add(said(shown, "ann"))
        last = file.next_item(annotator="ann", role="annotator")
    written = time.time()
    monkeypatch.setattr(module.time, "time", lambda: written + 1_900.0)
    with opened(tmp_path, overlap=0.0) as file:
        assert file.next_item(annotator="carol", role="annotator") == min(
            set(file.order) - {earlier, shown}, key=file.order.index
        )
    monkeypatch.setattr(module.time, "time", lambda: written - 1e6)  # the clock was set back
    with opened(tmp_path, overlap=0.0) as file:
        assert last is not None
        assert file.next_item(annotator="ann", role="annotator") == last


def test_spellings_of_a_name_are_one_person(tmp_path: Path) -> None:
    """`Ann` and `ann` do not annotate a pair twice, also after a restart; the first spelling is kept."""
    with opened(tmp_path, overlap=1.0, raters=2) as file:
        item = file.next_item(annotator="Ann", role="annotator")
        assert item is not None
        file.add(said(item, "Ann"))
        file.add(said(item, "ann", "wrong"))
        assert [(one.annotator, one.label) for one in file.of_item(item)] == [("Ann", "wrong")]
    with opened(tmp_path, overlap=1.0, raters=2) as file:
        assert [(one.annotator, one.label) for one in file.of_item(item)] == [("Ann", "wrong")]
        assert file.known("ANN ") == "Ann"
        assert file.next_item(annotator=file.known("ann"), role="annotator") != item
