"""Rows of a benchmark are found in training data by text and by picture; unrelated rows are not."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest

from basereward.data.curation.contamination import (
    BenchmarkAnswer,
    Contaminated,
    OverlapReport,
    References,
    find_contaminated,
)
from basereward.data.schema.group import Group, Part, Turn
from basereward.data.sources.digits import Digits
from basereward.data.sources.numbers import Numbers
from basereward.errors import DataError

MakeGroup = Callable[..., Group]

LONG = " ".join(f"w{i}" for i in range(30))


def _kinds(answer: BenchmarkAnswer) -> list[str]:
    return [overlap.kind for overlap in answer.overlaps]


def _find(groups: list[Group], references: References, report: OverlapReport, *, source: str) -> list[Contaminated]:
    return list(find_contaminated([(source, i, g) for i, g in enumerate(groups)], references, report=report))


def _saved(picture: PIL.Image.Image, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def test_all_of_vl_rewardbench_is_found_and_nothing_else(vl_groups: list[Group], dialogues: list[Group]) -> None:
    """1,250 of 1,250 by the text alone, for the pictures are not there. None of 300 real dialogues, 4,000 questions of
    size and 1,297 digits."""
    references = References({"vl_rewardbench": vl_groups})
    report = OverlapReport()
    found = _find(vl_groups, references, report, source="annotations")
    assert [row.index for row in found] == list(range(1250))
    assert found[7].id == vl_groups[7].id
    others = {
        "dialogues": dialogues,
        "numbers": list(Numbers("n", size=4000).groups("train")),
        "digits": list(Digits("d").groups("train")),
    }
    for source, groups in others.items():
        assert _find(groups, references, report, source=source) == []
    assert report.rows == {"annotations": 1250, "dialogues": 300, "numbers": 4000, "digits": 1297}
    assert report.contaminated == {("annotations", "vl_rewardbench"): 1250}
    assert report.kinds == {
        ("annotations", "vl_rewardbench"): {"prompt": 1250, "prompt_response": 1250, "ngrams": 1250},
    }
    lines = report.table(references).splitlines()
    assert lines[1].split() == "annotations vl_rewardbench 1250 1250 1250 1250 1250 0 0 0".split()
    assert "1250 images of source annotations could not be read" in lines
    assert "1250 images of benchmark vl_rewardbench could not be read" in lines


def test_the_prompts_of_vl_rewardbench_are_found_with_other_answers_and_another_form(vl_groups: list[Group]) -> None:
    """In capitals, with the picture's place elsewhere and answers of another model: by the prompt alone."""
    references = References({"vl": vl_groups})
    for group in vl_groups[::10]:
        parts = [part.text or "" for turn in group.prompt for part in turn.parts]
        prompt = (Turn("system", (Part("Be brief."),)), Turn("user", (Part(" ".join(parts).upper() + " "),)))
        kinds = _kinds(references.ask(replace(group, prompt=prompt, responses=("x", "y"), images=())))
        assert "prompt" in kinds
        assert "prompt_response" not in kinds


@pytest.mark.parametrize(
    ("prompt", "kinds"),
    [
        pytest.param(LONG, ["prompt", "ngrams"], id="the same"),
        pytest.param(f"Look closely. {LONG} Explain.", ["ngrams"], id="within a longer one"),
        pytest.param(" ".join(LONG.split()[:20]), ["ngrams"], id="a part of it"),
        # Of 18 runs of 13 words 8 are the reference's: 0.44.
        pytest.param(" ".join(LONG.split()[:20]) + " " + " ".join("abcdefghij"), [], id="less than half"),
        # 12 words that follow each other make no run of 13.
        pytest.param("x " + " ".join(LONG.split()[:12]) + " y", [], id="one word too few"),
        pytest.param(" ".join(reversed(LONG.split())), [], id="the same words in another order"),
    ],
)
def test_runs_of_words(make_group: MakeGroup, prompt: str, kinds: list[str]) -> None:
    """A run of 13 counts; the share is of the shorter prompt."""
    references = References({"b": [make_group(LONG, "yes", "no")]})
    assert _kinds(references.ask(make_group(prompt, "maybe", "never"))) == kinds


def test_short_prompts_count_whole(make_group: MakeGroup) -> None:
    """Of fewer than 13 words only the same prompt is found."""
    references = References({"b": [make_group("How many dogs are there?", "2", "3")]})
    assert _kinds(references.ask(make_group("how many dogs are there", "5", "6"))) == ["prompt", "ngrams"]
    assert _kinds(references.ask(make_group("How many dogs are there?", "2.", "6"))) == [
        "prompt",
        "prompt_response",
        "ngrams",
    ]
    assert _kinds(references.ask(make_group("How many dogs are there now?", "2", "3"))) == []


def test_a_benchmarks_manner_of_asking_is_no_overlap(make_group: MakeGroup) -> None:
    """One long instruction before 20 questions: a training row with the instruction and another question is clean, one
    with such a question is not. In a benchmark of 5 it still counts, where it cannot be told from a question."""
    instruction = " ".join(f"rule{i}" for i in range(40))
    questions = [make_group(f"{instruction} {i} apples and {i + 1} pears?", "a", "b") for i in range(20)]
    other = make_group(f"{instruction} How far is the moon?", "a", "b")
    assert _kinds(References({"b": questions}).ask(other)) == []
    assert _kinds(References({"b": questions}).ask(questions[3])) == ["prompt", "prompt_response", "ngrams"]
    assert _kinds(References({"b": questions[:5]}).ask(other)) == ["ngrams"]


def test_pictures_are_found_again(make_group: MakeGroup, photos: list[Path]) -> None:
    """By content under another name and question; a resized JPEG of it by its perceptual hash, with the distance."""
    references = References({"b": [make_group(f"q{i}", "a", "b", images=[p]) for i, p in enumerate(photos[:12])]})
    picture = PIL.Image.open(photos[3]).convert("RGB")
    small = _saved(picture.resize((picture.width // 2, picture.height // 2)), "JPEG", quality=60)
    same = references.ask(make_group("other", "a", "b", images=[photos[3].read_bytes()]))
    assert [(o.kind, o.benchmark) for o in same.overlaps] == [("image", "b")]
    [copy] = references.ask(make_group("other", "a", "b", images=[photos[20], small])).overlaps
    assert copy.kind == "similar_image"
    assert copy.detail in ("0 of 64 bits apart", "2 of 64 bits apart")
    assert references.ask(make_group("other", "a", "b", images=[photos[20]])).overlaps == ()


def test_photos_of_training_that_are_in_no_benchmark_stay(make_group: MakeGroup, photos: list[Path]) -> None:
    """12 photographs against 32 made pictures and the other way round: no false alarm in 44."""
    groups = [make_group(f"q{i}", "a", "b", images=[path]) for i, path in enumerate(photos)]
    photographs, made = References({"b": groups[:12]}), References({"b": groups[12:]})
    answers = [photographs.ask(group) for group in groups[12:]] + [made.ask(group) for group in groups[:12]]
    assert {answer.overlaps for answer in answers} == {()}


def test_the_same_words_under_another_picture_are_told_apart(make_group: MakeGroup, photos: list[Path]) -> None:
    """ "Describe it." is asked of many pictures. Only where one of the two cannot be seen does the text decide."""
    asked = make_group("Describe it.", "A dog.", "A cat.", images=[photos[0]])
    references = References({"b": [asked, make_group("Describe it.", "x", "y", images=[photos[1]])]})
    other = references.ask(replace(asked, images=(photos[5],)))
    assert _kinds(other) == ["other_image"]
    assert list(find_contaminated([("s", 0, replace(asked, images=(photos[5],)))], references)) == []
    assert _kinds(references.ask(replace(asked, images=(photos[1],)))) == ["prompt", "ngrams", "image", "other_image"]
    unseen = references.ask(replace(asked, images=(Path("missing.jpg"),)))
    assert _kinds(unseen) == ["prompt", "prompt_response", "ngrams"]
    assert unseen.num_unread == 1
    blind = References({"b": [replace(asked, images=(Path("gone.png"),))]})
    assert "prompt" in _kinds(blind.ask(replace(asked, images=(photos[5],))))


def test_what_cannot_be_read_is_counted_and_harmless(make_group: MakeGroup) -> None:
    """Missing, empty and broken images on both sides; a prompt without words; a benchmark without rows."""
    broken = make_group("q", "a", "b", images=["missing.png", b"", b"no picture"])
    references = References({"b": [broken], "empty": []})
    assert references.benchmarks["b"].num_unread == 3
    report = OverlapReport()
    found = _find([broken, make_group("", "a", "b", images=[b"other"])], references, report, source="s")
    assert [row.index for row in found] == [0]
    assert report.unread == {"s": 4}
    assert "image of b, row 'g'" in found[0].detail
    assert report.table(references).splitlines()[2].split()[:4] == ["s", "empty", "2", "0"]


def test_each_benchmark_is_counted_by_itself(make_group: MakeGroup) -> None:
    """A row in two benchmarks is one row of each."""
    references = References({"x": [make_group("q1", "a", "b")], "y": [make_group(f"q{i}", "c", "d") for i in range(9)]})
    report = OverlapReport()
    _find([make_group("q1", "a", "e"), make_group("q2", "a", "b")], references, report, source="s")
    assert report.contaminated == {("s", "x"): 1, ("s", "y"): 2}
    assert report.kinds["s", "x"] == {"prompt": 1, "prompt_response": 1, "ngrams": 1}
    assert report.kinds["s", "y"] == {"prompt": 2, "ngrams": 2}


def test_kinds_can_be_chosen(make_group: MakeGroup) -> None:
    """Only what was asked for drops a row; the report counts all the same."""
    references = References({"b": [make_group("q", "a", "b")]})
    group = make_group("q", "c", "d")
    report = OverlapReport()
    assert list(find_contaminated([("s", 0, group)], references, report=report, kinds=["prompt_response"])) == []
    assert (report.kinds["s", "b"]["prompt"], report.contaminated) == (1, {})
    with pytest.raises(DataError, match="did you mean 'prompt'"):
        list(find_contaminated([], references, kinds=["promt"]))  # type: ignore[list-item]
    with pytest.raises(DataError, match="threshold=0"):
        References({}, threshold=0)
