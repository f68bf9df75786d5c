"""Training groups that overlap with a benchmark are found by text and image; unrelated groups are not."""

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
    """Return the kinds of overlap in an answer."""
    return [overlap.kind for overlap in answer.overlaps]


def _find(groups: list[Group], references: References, report: OverlapReport, *, source: str) -> list[Contaminated]:
    """Return the contaminated groups of a source."""
    return list(find_contaminated([(source, i, g) for i, g in enumerate(groups)], references, report=report))


def _image_file(image: PIL.Image.Image, file_format: str, **options: int) -> bytes:
    """Return the image as bytes of an image file."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def test_vl_rewardbench_is_found_and_other_data_are_not(vl_groups: list[Group], dialogues: list[Group]) -> None:
    """All 1,250 rows are found by text alone, since their images are missing. None of 300 real dialogues, 4,000 number
    questions and 1,297 digits is."""
    references = References({"vl_rewardbench": vl_groups})
    report = OverlapReport()
    contaminated = _find(vl_groups, references, report, source="annotations")
    assert [row.index for row in contaminated] == list(range(1250))
    assert contaminated[7].id == vl_groups[7].id
    other_sources = {
        "dialogues": dialogues,
        "numbers": list(Numbers("n", size=4000).groups("train")),
        "digits": list(Digits("d").groups("train")),
    }
    for source, groups in other_sources.items():
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


def test_prompts_are_found_with_other_answers_and_another_form(vl_groups: list[Group]) -> None:
    """In capitals, without the image placeholder and with other answers, the prompt alone is found."""
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
        # 8 of its 18 13-grams are in the reference: 0.44.
        pytest.param(" ".join(LONG.split()[:20]) + " " + " ".join("abcdefghij"), [], id="less than half"),
        # 12 consecutive words have no 13-gram.
        pytest.param("x " + " ".join(LONG.split()[:12]) + " y", [], id="one word too few"),
        pytest.param(" ".join(reversed(LONG.split())), [], id="the same words in another order"),
    ],
)
def test_overlap_of_n_grams(make_group: MakeGroup, prompt: str, kinds: list[str]) -> None:
    """Overlap is the share of the shorter prompt's 13-grams."""
    references = References({"b": [make_group(LONG, "yes", "no")]})
    assert _kinds(references.ask(make_group(prompt, "maybe", "never"))) == kinds


def test_short_prompts_are_compared_whole(make_group: MakeGroup) -> None:
    """A prompt of fewer than 13 words matches only the same prompt."""
    references = References({"b": [make_group("How many dogs are there?", "2", "3")]})
    assert _kinds(references.ask(make_group("how many dogs are there", "5", "6"))) == ["prompt", "ngrams"]
    assert _kinds(references.ask(make_group("How many dogs are there?", "2.", "6"))) == [
        "prompt",
        "prompt_response",
        "ngrams",
    ]
    assert _kinds(references.ask(make_group("How many dogs are there now?", "2", "3"))) == []


def test_common_instruction_of_a_benchmark_is_no_overlap(make_group: MakeGroup) -> None:
    """20 questions share one long instruction. A training group with the instruction and another question is clean; a
    group with one of the questions is not. In a benchmark of 5 rows the instruction counts, since it cannot be
    distinguished from a question."""
    instruction = " ".join(f"rule{i}" for i in range(40))
    questions = [make_group(f"{instruction} {i} apples and {i + 1} pears?", "a", "b") for i in range(20)]
    other = make_group(f"{instruction} How far is the moon?", "a", "b")
    assert _kinds(References({"b": questions}).ask(other)) == []
    assert _kinds(References({"b": questions}).ask(questions[3])) == ["prompt", "prompt_response", "ngrams"]
    assert _kinds(References({"b": questions[:5]}).ask(other)) == ["ngrams"]


def test_images_are_found_by_content_and_perceptual_hash(make_group: MakeGroup, photos: list[Path]) -> None:
    """The same bytes match under another question. A resized JPEG matches by its perceptual hash, and the detail gives
    the distance."""
    references = References({"b": [make_group(f"q{i}", "a", "b", images=[p]) for i, p in enumerate(photos[:12])]})
    image = PIL.Image.open(photos[3]).convert("RGB")
    resized = _image_file(image.resize((image.width // 2, image.height // 2)), "JPEG", quality=60)
    same = references.ask(make_group("other", "a", "b", images=[photos[3].read_bytes()]))
    assert [(o.kind, o.benchmark) for o in same.overlaps] == [("image", "b")]
    [copy] = references.ask(make_group("other", "a", "b", images=[photos[20], resized])).overlaps
    assert copy.kind == "similar_image"
    assert copy.detail in ("0 of 64 bits apart", "2 of 64 bits apart")
    assert references.ask(make_group("other", "a", "b", images=[photos[20]])).overlaps == ()


def test_unrelated_images_do_not_overlap(make_group: MakeGroup, photos: list[Path]) -> None:
    """12 photographs against 32 generated images, and the reverse: no false positive in 44."""
    groups = [make_group(f"q{i}", "a", "b", images=[path]) for i, path in enumerate(photos)]
    photographs, generated = References({"b": groups[:12]}), References({"b": groups[12:]})
    answers = [photographs.ask(group) for group in groups[12:]] + [generated.ask(group) for group in groups[:12]]
    assert {answer.overlaps for answer in answers} == {()}


def test_same_prompt_with_another_image_is_no_overlap(make_group: MakeGroup, photos: list[Path]) -> None:
    """Many images have the prompt "Describe it.". Text alone decides only where one of the two images cannot be
    read."""
    group = make_group("Describe it.", "A dog.", "A cat.", images=[photos[0]])
    references = References({"b": [group, make_group("Describe it.", "x", "y", images=[photos[1]])]})
    other = references.ask(replace(group, images=(photos[5],)))
    assert _kinds(other) == ["other_image"]
    assert list(find_contaminated([("s", 0, replace(group, images=(photos[5],)))], references)) == []
    assert _kinds(references.ask(replace(group, images=(photos[1],)))) == ["prompt", "ngrams", "image", "other_image"]
    unseen = references.ask(replace(group, images=(Path("missing.jpg"),)))
    assert _kinds(unseen) == ["prompt", "prompt_response", "ngrams"]
    assert unseen.num_unread == 1
    unread_references = References({"b": [replace(group, images=(Path("gone.png"),))]})
    assert "prompt" in _kinds(unread_references.ask(replace(group, images=(photos[5],))))


def test_unreadable_images_are_counted(make_group: MakeGroup) -> None:
    """Missing, empty and broken images on both sides, a prompt without words and an empty benchmark raise no error."""
    broken = make_group("q", "a", "b", images=["missing.png", b"", b"no picture"])
    references = References({"b": [broken], "empty": []})
    assert references.benchmarks["b"].num_unread == 3
    report = OverlapReport()
    contaminated = _find([broken, make_group("", "a", "b", images=[b"other"])], references, report, source="s")
    assert [row.index for row in contaminated] == [0]
    assert report.unread == {"s": 4}
    assert "image of b, row 'g'" in contaminated[0].detail
    assert report.table(references).splitlines()[2].split()[:4] == ["s", "empty", "2", "0"]


def test_benchmarks_are_counted_separately(make_group: MakeGroup) -> None:
    """A group that overlaps with two benchmarks counts once for each."""
    references = References({"x": [make_group("q1", "a", "b")], "y": [make_group(f"q{i}", "c", "d") for i in range(9)]})
    report = OverlapReport()
    _find([make_group("q1", "a", "e"), make_group("q2", "a", "b")], references, report, source="s")
    assert report.contaminated == {("s", "x"): 1, ("s", "y"): 2}
    assert report.kinds["s", "x"] == {"prompt": 1, "prompt_response": 1, "ngrams": 1}
    assert report.kinds["s", "y"] == {"prompt": 2, "ngrams": 2}


def test_kinds_select_the_dropped_groups(make_group: MakeGroup) -> None:
    """Only overlaps of the given kinds drop a group; the report counts all kinds."""
    references = References({"b": [make_group("q", "a", "b")]})
    group = make_group("q", "c", "d")
    report = OverlapReport()
    assert list(find_contaminated([("s", 0, group)], references, report=report, kinds=["prompt_response"])) == []
    assert (report.kinds["s", "b"]["prompt"], report.contaminated) == (1, {})
    with pytest.raises(DataError, match="did you mean 'prompt'"):
        list(find_contaminated([], references, kinds=["promt"]))  # type: ignore[list-item]
    with pytest.raises(DataError, match="threshold=0"):
        References({}, threshold=0)
