"""Duplicate and near-duplicate groups: which are dropped, and which group each of them names as kept."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest

from basereward.data.curation.duplicates import Duplicate, find_duplicates
from basereward.data.schema.group import Group, Preference
from basereward.data.sources.digits import Digits
from basereward.data.sources.numbers import Numbers
from basereward.errors import DataError
from tests.helpers.support import drawn_groups, placed

MakeGroup = Callable[..., Group]

WORDS = [f"w{i}" for i in range(5000)]


def _placed(groups: list[Group], *, source: str = "s") -> list[tuple[str, int, Group]]:
    """Return the groups with their source and index."""
    return [(source, index, group) for index, group in enumerate(groups)]


def test_responses_with_other_pictures_are_no_duplicates() -> None:
    """Groups whose answers are equal texts are compared by the pictures of these; a swapped preference differs too."""
    drawn, _ = drawn_groups()
    again = replace(drawn, id="again", response_images=tuple(reversed(drawn.response_images)))
    again = replace(again, preferences=(Preference(1, 0),))
    other = replace(drawn, id="other", response_images=(placed((0, 3)), placed((0, 5))))
    long = replace(drawn, id="long", responses=(_text(1), _text(2)))
    changed = replace(long, id="changed", response_images=other.response_images)
    for threshold in (None, 0.8):
        found = find_duplicates(_placed([drawn, again, other, long, changed]), threshold=threshold)
        assert [(duplicate.id, duplicate.kept_index) for duplicate in found] == [("again", 0)]


def _text(seed: int, *, length: int = 200) -> str:
    """Return random words."""
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def _changed(text: str, *, words: int, seed: int = 0) -> str:
    """Return the text with `words` of its words replaced by new ones."""
    tokens = text.split()
    for position in random.Random(seed).sample(range(len(tokens)), words):
        tokens[position] = f"new{position}"
    return " ".join(tokens)


def _summary(duplicates: list[Duplicate]) -> list[tuple[str, int, str, str, int]]:
    """Return source, index, reason and kept group of each duplicate."""
    return [(d.source, d.index, d.reason, d.kept_source, d.kept_index) for d in duplicates]


def test_first_copy_is_kept_across_sources(make_group: MakeGroup) -> None:
    """A group occurs three times in two sources: the two later copies name the first."""
    first, other = make_group("q", "a", "b", group_id="first"), make_group("q", "a", "c")
    groups = [("x", 7, first), ("x", 8, other), ("y", 0, replace(first, id="again")), ("y", 1, first)]
    duplicates = find_duplicates(groups)
    assert _summary(duplicates) == [("y", 0, "duplicate", "x", 7), ("y", 1, "duplicate", "x", 7)]
    assert duplicates[0].id == "again"
    assert duplicates[0].detail == "the same as first (source 'x', group 7)"


def test_duplicates_ignore_the_order_of_responses(make_group: MakeGroup) -> None:
    """Both groups with swapped responses are duplicates. The detail says so where the preference contradicts the
    first."""
    group = make_group("q", "a", "b")
    swapped = make_group("q", "b", "a", preferences=[Preference(1, 0)])
    contradicting = make_group("q", "b", "a")
    duplicates = find_duplicates(_placed([group, swapped, contradicting]))
    assert [d.index for d in duplicates] == [1, 2]
    assert ["other preferences" in d.detail for d in duplicates] == [False, True]


def test_images_are_compared_by_content(make_group: MakeGroup, tmp_path: Path) -> None:
    """The same bytes under another name are a duplicate. Another image or another missing file is not even a near
    duplicate."""
    gradient = PIL.Image.linear_gradient("L")
    gradient.save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    gradient.rotate(90).save(tmp_path / "c.png")
    names = ["a.png", "b.png", "c.png", "missing1.png", "missing2.png", "missing1.png"]
    text = _text(1)
    groups = [make_group("Describe it.", text, "short", images=[tmp_path / name]) for name in names]
    assert _summary(find_duplicates(_placed(groups))) == [
        ("s", 1, "duplicate", "s", 0),
        ("s", 5, "duplicate", "s", 3),
    ]


@pytest.mark.parametrize(("words", "near"), [(4, True), (40, False)])
def test_near_duplicates_by_the_number_of_changed_words(make_group: MakeGroup, words: int, near: bool) -> None:
    """Of 198 shingles of three words, 4 changed words leave 186 or more: a Jaccard similarity of at least 186 / 210 =
    0.89. Forty changed words leave about 95: 0.35."""
    text, other = _text(1), _text(2)
    groups = [make_group("Question?", text, other), make_group("Question?", _changed(text, words=words), other)]
    groups[1] = replace(groups[1], responses=(groups[1].responses[0], _changed(other, words=words)))
    assert [d.reason for d in find_duplicates(_placed(groups))] == ["near_duplicate"] * near
    assert find_duplicates(_placed(groups), threshold=None) == []


def test_estimated_similarity_agrees_with_jaccard(make_group: MakeGroup) -> None:
    """Against the exact Jaccard similarity of 60 pairs of texts: every pair above 0.9 is found, no pair below 0.7
    is."""
    for seed in range(60):
        text = _text(seed)
        changed = _changed(text, words=1 + seed // 3, seed=seed)
        shingles = [
            {tuple(tokens[i : i + 3]) for i in range(len(tokens) - 2)} for tokens in (text.split(), changed.split())
        ]
        jaccard = len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])
        duplicates = find_duplicates(_placed([make_group("?", text), make_group("?", changed)]))
        assert duplicates or jaccard < 0.9
        assert not duplicates or jaccard > 0.7


def test_different_answers_to_a_long_prompt_are_no_duplicates(make_group: MakeGroup) -> None:
    """The shared prompt is 95 % of the text, but the answers differ."""
    prompt = _text(1, length=1000)
    groups = [make_group(prompt, _text(10 + i, length=25), _text(20 + i, length=25)) for i in range(5)]
    assert find_duplicates(_placed(groups)) == []


def test_short_texts_that_differ_in_one_word_are_no_duplicates(make_group: MakeGroup) -> None:
    """Short questions differ in one decisive word; the generated sources have no duplicates."""
    groups = [make_group(f"Which is larger, {i} or {i + 1}?", f"{i + 1}", f"{i}") for i in range(10, 99)]
    assert find_duplicates(_placed(groups)) == []
    assert find_duplicates(_placed(list(Numbers("n", size=500).groups("train")))) == []
    assert find_duplicates(_placed(list(Digits("d", size=300).groups("train")))) == []


def test_near_duplicate_of_a_dropped_group_is_kept(make_group: MakeGroup) -> None:
    """The second text is near the first, the third only near the second. The third is kept, because the second is
    dropped."""
    first = _text(1)
    second = _changed(first, words=5, seed=1)
    third = _changed(second, words=5, seed=2)
    groups = [make_group("?", text) for text in (first, second, third)]
    assert find_duplicates(_placed(groups[1:]))
    assert _summary(find_duplicates(_placed(groups))) == [("s", 1, "near_duplicate", "s", 0)]


def test_copy_of_a_near_duplicate_names_the_kept_group(make_group: MakeGroup) -> None:
    """A copy of a dropped near duplicate names the kept group, not the dropped one."""
    near = make_group("?", _changed(_text(1), words=2))
    groups = [make_group("?", _text(1)), near, near]
    assert [(d.reason, d.kept_index) for d in find_duplicates(_placed(groups))] == [("near_duplicate", 0)] * 2


def test_kept_contents_do_not_depend_on_the_order(make_group: MakeGroup) -> None:
    """200 groups with 60 distinct contents are shuffled five times: all 60 contents are kept, and a second pass drops
    nothing."""
    rng = random.Random(0)
    contents = [make_group(f"q{i}", _text(i, length=20), _text(i + 100, length=20)) for i in range(60)]
    groups = contents + [rng.choice(contents) for _ in range(140)]
    for _ in range(5):
        rng.shuffle(groups)
        dropped_indices = {d.index for d in find_duplicates(_placed(groups))}
        kept_groups = [group for index, group in enumerate(groups) if index not in dropped_indices]
        assert sorted(kept_groups, key=repr) == sorted(contents, key=repr)
        assert find_duplicates(_placed(kept_groups)) == []


def test_second_pass_finds_no_near_duplicates(make_group: MakeGroup) -> None:
    """300 texts are 30 base texts with one to eight changed words. No kept group is dropped, and a second pass finds
    nothing."""
    groups = [make_group("?", _changed(_text(i % 30), words=1 + i // 40, seed=i)) for i in range(300)]
    duplicates = find_duplicates(_placed(groups))
    dropped_indices = {d.index for d in duplicates}
    assert 30 < len(dropped_indices) < 270
    assert not {d.kept_index for d in duplicates} & dropped_indices
    assert find_duplicates(_placed([g for i, g in enumerate(groups) if i not in dropped_indices])) == []
    assert find_duplicates(_placed(groups)) == duplicates


def test_unusual_texts_have_only_exact_duplicates(make_group: MakeGroup) -> None:
    """Texts without words, empty texts and lone surrogates are compared exactly."""
    groups = [make_group("?", text, "b") for text in ("", "?!", "...", "\ud800", "\ud801")]
    assert find_duplicates(_placed(groups)) == []
    assert [d.index for d in find_duplicates(_placed(groups + groups))] == [5, 6, 7, 8, 9]
    assert find_duplicates([]) == []


def test_too_low_threshold_is_an_error() -> None:
    """The hash bands would miss pairs at a threshold of 0.3."""
    with pytest.raises(DataError, match=r"threshold=0\.3"):
        find_duplicates([], threshold=0.3)


def test_five_real_dialogues_are_duplicates(dialogues: list[Group]) -> None:
    """The duplicates are those of a plain comparison of prompts and responses."""
    contents = [(group.prompt, group.responses) for group in dialogues]
    repeated = [i for i, content in enumerate(contents) if content in contents[:i]]
    assert len(repeated) == 5
    assert [d.index for d in find_duplicates(_placed(dialogues))] == repeated


def test_vl_rewardbench_has_no_duplicates(vl_groups: list[Group]) -> None:
    """1,250 rows, in which 25 ids occur twice, have distinct contents. Read again as a second source, every row is a
    duplicate."""
    assert find_duplicates(_placed(vl_groups)) == []
    duplicates = find_duplicates(_placed(vl_groups) + _placed(vl_groups, source="copy"))
    assert [(d.source, d.index, d.kept_index) for d in duplicates] == [("copy", i, i) for i in range(1250)]
