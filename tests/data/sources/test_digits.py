"""The embedded digits: held-out images are never trained on, and only the image determines the right answer."""

from __future__ import annotations

import itertools
import pickle
import re
from collections import Counter
from typing import Any

import numpy as np
import PIL.Image
import pytest
from scipy.stats import chisquare
from sklearn.datasets import load_digits

from basereward.data.schema.group import SPLITS, Group
from basereward.data.sources.digits import WORDINGS, Digits, word_digit
from basereward.errors import DataError

ARTICLE, NUMBER = "an?", r"(\d)"
PATTERNS = [re.compile(wording.replace(".", r"\.").format(a=ARTICLE, number=NUMBER) + "$") for wording in WORDINGS]


def _parse_response(response: str) -> tuple[int, int]:
    """Return the wording of a response, and the digit that it names."""
    for wording, pattern in enumerate(PATTERNS):
        if match := pattern.match(response):
            return wording, int(match.group(1))
    raise AssertionError(f"no wording fits {response!r}")


def _true_responses(group: Group) -> set[int]:
    """Return the indices of the right responses."""
    return {preference.winner for preference in group.preferences}


def test_splits_have_every_scan_once() -> None:
    """The 1,297 + 250 + 250 images of the splits are all 1,797 scans, each once."""
    images_by_split = {split: [group.images[0].tobytes() for group in Digits("d").groups(split)] for split in SPLITS}  # type: ignore[union-attr]
    assert [len(images_by_split[split]) for split in SPLITS] == [1297, 250, 250]
    assert len({content for part in images_by_split.values() for content in part}) == len(
        {scan.tobytes() for scan in load_digits().images}
    )
    for one, other in itertools.combinations(SPLITS, 2):
        assert not set(images_by_split[one]) & set(images_by_split[other])


def test_only_true_answers_name_the_digit() -> None:
    """Against scikit-learn's labels, for every group."""
    labels = load_digits().target
    source = Digits("d")
    for split in SPLITS:
        for group in source.groups(split):
            digit = labels[int(group.id.split("/")[1])]
            is_true = [_parse_response(response)[1] == digit for response in group.responses]
            assert {i for i, true in enumerate(is_true) if true} == _true_responses(group)
            assert sum(is_true) == 2
            assert len(is_true) == 5
            pairs = {(p.winner, p.loser) for p in group.preferences}
            assert pairs == {(i, j) for i in range(5) for j in range(5) if is_true[i] and not is_true[j]}
            assert len(set(group.responses)) == 5


def test_image_is_the_enlarged_scan() -> None:
    """With 8 pixels the image equals the scan, scaled from 0-16 to 0-255. With 56 pixels, reduced again, it is nearest
    to its own scan."""
    scans = load_digits().images * 255 / 16
    for exact, large in zip(Digits("d", side=8).groups("val")[:20], Digits("d").groups("val")[:20], strict=True):
        scan_index = int(exact.id.split("/")[1])
        assert np.abs(np.asarray(exact.images[0])[:, :, 1] - scans[scan_index]).max() <= 0.5
        [image] = large.images
        assert isinstance(image, PIL.Image.Image)
        assert (image.mode, image.size) == ("RGB", (56, 56))
        reduced = np.asarray(image.convert("L").resize((8, 8), PIL.Image.Resampling.BOX), dtype=float)
        assert np.abs(reduced - scans).mean(axis=(1, 2)).argmin() == scan_index


def test_wording_is_independent_of_truth() -> None:
    """Each wording is true in two of five uses, and all are used equally often."""
    uses: Counter[tuple[int, bool]] = Counter()
    for group in Digits("d", copies=8).groups("train"):
        for i, response in enumerate(group.responses):
            uses[_parse_response(response)[0], i in _true_responses(group)] += 1
    true_uses = np.array([uses[wording, True] for wording in range(len(WORDINGS))])
    all_uses = true_uses + np.array([uses[wording, False] for wording in range(len(WORDINGS))])
    assert chisquare(true_uses, all_uses * 0.4).pvalue > 0.001
    assert chisquare(all_uses).pvalue > 0.001


def test_index_is_independent_of_truth() -> None:
    """A true response is equally often at each of the five indices."""
    index_counts = Counter(i for group in Digits("d", copies=8).groups("train") for i in _true_responses(group))
    assert chisquare([index_counts[i] for i in range(5)]).pvalue > 0.001


def test_copies_are_only_in_training() -> None:
    """A copy has the same image, another id and other words; held-out splits have no copies."""
    source = Digits("d", copies=3)
    train = source.groups("train")
    assert len(train) == 3 * 1297
    assert [len(source.groups(split)) for split in ("val", "test")] == [250, 250]
    changed = sum(train[i].responses != train[1297 + i].responses for i in range(100))
    assert changed == 100
    assert all(train[i].images == train[1297 + i].images for i in range(100))
    assert len({group.id for group in train}) == len(train)


def test_the_same_arguments_give_the_same_groups() -> None:
    """In any order of access and after pickling; another seed gives other groups."""
    groups = Digits("d").groups("test")
    unpickled = pickle.loads(pickle.dumps(Digits("d").groups("test")))  # noqa: S301
    assert [unpickled[i] for i in (7, 3, -1)] == [groups[7], groups[3], groups[249]]
    assert [group.id for group in groups[3:6]] == [groups[i].id for i in (3, 4, 5)]
    assert [g.id for g in Digits("d", seed=1).groups("test")] != [g.id for g in groups]
    with pytest.raises(IndexError):
        groups[250]


def test_article_depends_on_the_digit() -> None:
    """The article is "an" before 8 and "a" before 1."""
    assert word_digit(8, "I see {a} {number}.") == "I see an 8."
    assert word_digit(1, "It is {a} {number}.") == "It is a 1."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"true_answers": 5}, "at least one answer must be true and one false"),
        ({"true_answers": 0}, "true_answers=0"),
        ({"answers": 11}, "at most 7 answers"),
        ({"side": 7}, "side=7"),
        ({"copies": 0}, "copies=0"),
        ({"val_size": 1000, "test_size": 797}, "less than 1797"),
        ({"test_size": -1}, "test_size=-1"),
        ({"plain": True}, "true_answers=2"),
    ],
)
def test_arguments_out_of_range_are_errors(arguments: dict[str, Any], message: str) -> None:
    """The message contains the source's name and the value."""
    with pytest.raises(DataError, match=message) as caught:
        Digits("mine", **arguments)
    assert "'mine'" in str(caught.value)


def test_graded_answers_are_ranked_by_their_distance() -> None:
    """By scikit-learn's label: nearer answers win, with margins in ninths; equally near ones tie."""
    labels = load_digits().target
    for group in Digits("d", graded=True).groups("val"):
        digit = labels[int(group.id.split("/")[1])]
        away = [abs(_parse_response(response)[1] - digit) for response in group.responses]
        pairs = {frozenset((p.winner, p.loser)) for p in group.preferences}
        assert len(pairs) == len(group.preferences) == 10
        for p in group.preferences:
            assert p.tie == (away[p.winner] == away[p.loser])
            assert p.margin == (None if p.tie else pytest.approx((away[p.loser] - away[p.winner]) / 9))
            assert p.tie or away[p.winner] < away[p.loser]


def test_plain_answers_are_digits_that_can_be_checked() -> None:
    """Each answer is a digit alone, the preferred one that of scikit-learn's label, and all are different."""
    labels = load_digits().target
    plain = Digits("d", plain=True, true_answers=1).groups("val")
    for group, worded in zip(plain, Digits("d", true_answers=1).groups("val"), strict=True):
        digit = str(labels[int(group.id.split("/")[1])])
        assert len(set(group.responses)) == len(group.responses)
        assert set(group.responses) <= set("0123456789")
        assert {group.responses[p.winner] for p in group.preferences} == {digit}
        # The picture, the question and the digits do not depend on the wording.
        assert [_parse_response(response)[1] for response in worded.responses] == list(map(int, group.responses))
