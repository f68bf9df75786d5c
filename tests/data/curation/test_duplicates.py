"""Groups that come again are found, each with the one that is kept; others are left."""

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

MakeGroup = Callable[..., Group]

WORDS = [f"w{i}" for i in range(5000)]


def _placed(groups: list[Group], *, source: str = "s") -> list[tuple[str, int, Group]]:
    return [(source, index, group) for index, group in enumerate(groups)]


def _text(seed: int, *, length: int = 200) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def _changed(text: str, *, words: int, seed: int = 0) -> str:
    """The text with so many words replaced by new ones."""
    own = text.split()
    for place in random.Random(seed).sample(range(len(own)), words):
        own[place] = f"new{place}"
    return " ".join(own)


def _summary(found: list[Duplicate]) -> list[tuple[str, int, str, str, int]]:
    return [(d.source, d.index, d.reason, d.kept_source, d.kept_index) for d in found]


def test_the_first_of_the_same_is_kept_across_sources(make_group: MakeGroup) -> None:
    """Two sources, three copies: the two later ones name the first."""
    one, other = make_group("q", "a", "b", group_id="first"), make_group("q", "a", "c")
    groups = [("x", 7, one), ("x", 8, other), ("y", 0, replace(one, id="again")), ("y", 1, one)]
    found = find_duplicates(groups)
    assert _summary(found) == [("y", 0, "duplicate", "x", 7), ("y", 1, "duplicate", "x", 7)]
    assert found[0].id == "again"
    assert found[0].detail == "the same as first (source 'x', group 7)"


def test_the_order_of_responses_does_not_count_and_a_contrary_label_is_said(make_group: MakeGroup) -> None:
    """Chosen and rejected changed places: once with the preference, once without it."""
    one = make_group("q", "a", "b")
    same = make_group("q", "b", "a", preferences=[Preference(1, 0)])
    contrary = make_group("q", "b", "a")
    found = find_duplicates(_placed([one, same, contrary]))
    assert [d.index for d in found] == [1, 2]
    assert ["other preferences" in d.detail for d in found] == [False, True]


def test_images_are_compared_by_content(make_group: MakeGroup, tmp_path: Path) -> None:
    """Same bytes under another name: a duplicate. Another picture, or another missing one: none, not even near."""
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
    """Of 198 runs of three words 4 changed words spare 186 or more: a similarity of 186 / 210 = 0.89 at least. Forty
    change about 95 of them: 0.35."""
    one, other = _text(1), _text(2)
    groups = [make_group("Question?", one, other), make_group("Question?", _changed(one, words=words), other)]
    groups[1] = replace(groups[1], responses=(groups[1].responses[0], _changed(other, words=words)))
    assert [d.reason for d in find_duplicates(_placed(groups))] == ["near_duplicate"] * near
    assert find_duplicates(_placed(groups), threshold=None) == []


def test_the_estimate_is_that_of_jaccard(make_group: MakeGroup) -> None:
    """Against the similarity counted in full, over 60 pairs of all degrees of change: none above 0.9 is missed, none
    below 0.7 is taken."""
    for seed in range(60):
        text = _text(seed)
        other = _changed(text, words=1 + seed // 3, seed=seed)
        runs = [{tuple(own[i : i + 3]) for i in range(len(own) - 2)} for own in (text.split(), other.split())]
        jaccard = len(runs[0] & runs[1]) / len(runs[0] | runs[1])
        found = find_duplicates(_placed([make_group("?", text), make_group("?", other)]))
        assert found or jaccard < 0.9
        assert not found or jaccard > 0.7


def test_other_answers_to_one_long_prompt_are_no_duplicates(make_group: MakeGroup) -> None:
    """The prompt is 95 % of the text, and the answers are all different."""
    prompt = _text(1, length=1000)
    groups = [make_group(prompt, _text(10 + i, length=25), _text(20 + i, length=25)) for i in range(5)]
    assert find_duplicates(_placed(groups)) == []


def test_short_texts_that_differ_in_a_word_stay(make_group: MakeGroup) -> None:
    """Sums and questions of size are made of few words, of which one decides."""
    groups = [make_group(f"Which is larger, {i} or {i + 1}?", f"{i + 1}", f"{i}") for i in range(10, 99)]
    assert find_duplicates(_placed(groups)) == []
    assert find_duplicates(_placed(list(Numbers("n", size=500).groups("train")))) == []
    assert find_duplicates(_placed(list(Digits("d", size=300).groups("train")))) == []


def test_a_chain_of_near_duplicates_keeps_what_stands_for_the_others(make_group: MakeGroup) -> None:
    """The second is near to the first, the third to the second only: it stays, since the second does not."""
    first = _text(1)
    second = _changed(first, words=5, seed=1)
    third = _changed(second, words=5, seed=2)
    groups = [make_group("?", text) for text in (first, second, third)]
    assert find_duplicates(_placed(groups[1:]))
    assert _summary(find_duplicates(_placed(groups))) == [("s", 1, "near_duplicate", "s", 0)]


def test_a_copy_of_a_near_duplicate_names_the_group_that_is_kept(make_group: MakeGroup) -> None:
    """Not the one that is dropped itself."""
    near = make_group("?", _changed(_text(1), words=2))
    groups = [make_group("?", _text(1)), near, near]
    assert [(d.reason, d.kept_index) for d in find_duplicates(_placed(groups))] == [("near_duplicate", 0)] * 2


def test_what_is_kept_does_not_depend_on_order_and_a_second_pass_drops_nothing(make_group: MakeGroup) -> None:
    """Of 200 groups with 60 different contents, shuffled five times: the contents that stay are all 60."""
    rng = random.Random(0)
    contents = [make_group(f"q{i}", _text(i, length=20), _text(i + 100, length=20)) for i in range(60)]
    groups = contents + [rng.choice(contents) for _ in range(140)]
    for _ in range(5):
        rng.shuffle(groups)
        dropped = {d.index for d in find_duplicates(_placed(groups))}
        kept = [group for index, group in enumerate(groups) if index not in dropped]
        assert sorted(kept, key=repr) == sorted(contents, key=repr)
        assert find_duplicates(_placed(kept)) == []


def test_near_duplicates_leave_nothing_to_a_second_pass(make_group: MakeGroup) -> None:
    """300 texts around 30 centres, by one to eight changed words."""
    groups = [make_group("?", _changed(_text(i % 30), words=1 + i // 40, seed=i)) for i in range(300)]
    found = find_duplicates(_placed(groups))
    dropped = {d.index for d in found}
    assert 30 < len(dropped) < 270
    assert not {d.kept_index for d in found} & dropped
    assert find_duplicates(_placed([g for i, g in enumerate(groups) if i not in dropped])) == []
    assert find_duplicates(_placed(groups)) == found


def test_strange_texts_do_no_harm(make_group: MakeGroup) -> None:
    """Responses without words, without anything, and with a surrogate that stands alone."""
    groups = [make_group("?", text, "b") for text in ("", "?!", "...", "\ud800", "\ud801")]
    assert find_duplicates(_placed(groups)) == []
    assert [d.index for d in find_duplicates(_placed(groups + groups))] == [5, 6, 7, 8, 9]
    assert find_duplicates([]) == []


def test_ranges_are_checked() -> None:
    """A threshold that the bands would miss is refused."""
    with pytest.raises(DataError, match=r"threshold=0\.3"):
        find_duplicates([], threshold=0.3)


def test_real_dialogues_hold_five_that_come_again(dialogues: list[Group]) -> None:
    """Against a plain comparison of the rows; VL-RewardBench's rows are in none of them."""
    contents = [(group.prompt, group.responses) for group in dialogues]
    again = [i for i, content in enumerate(contents) if content in contents[:i]]
    assert len(again) == 5
    assert [d.index for d in find_duplicates(_placed(dialogues))] == again


def test_real_rows_of_a_benchmark_are_all_different(vl_groups: list[Group]) -> None:
    """1,250 rows, 25 ids twice, and no row twice; as a second source every one is found."""
    assert find_duplicates(_placed(vl_groups)) == []
    found = find_duplicates(_placed(vl_groups) + _placed(vl_groups, source="copy"))
    assert [(d.source, d.index, d.kept_index) for d in found] == [("copy", i, i) for i in range(1250)]
