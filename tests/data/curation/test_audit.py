"""Audit statistics, against counts by hand and scipy."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from scipy.stats import norm

from basereward.data.curation.audit import CountShare, audit
from basereward.data.curation.audit_table import table
from basereward.data.curation.languages import language
from basereward.data.schema.group import Group, Preference
from basereward.errors import DataError

MakeGroup = Callable[..., Group]


def test_audit_counts_four_groups(make_group: MakeGroup) -> None:
    """Counted by hand: the longer response wins in 2 of 3 pairs, one pair has equal lengths, one pair is a tie."""
    groups = [
        make_group("Which colour does the sky have today?", "longer", "short"),
        make_group("Welche Farbe hat der Himmel heute?", "ab", "abc", images=[b"1"]),
        make_group("Quelle est la couleur du ciel ?", "abcd", "abce", "abcd", images=[b"1", b"2"]),
        make_group(
            "What is the capital of this country?", "xyz", "x", "y",
            preferences=[Preference(0, 1), Preference(1, 2, tie=True)],
        ),
    ]  # fmt: skip
    result = audit(groups, source="s")
    assert (result.num_groups, result.num_responses, result.num_decided, result.num_ties) == (4, 10, 4, 1)
    assert result.images == {0: 2, 1: 1, 2: 1}
    assert result.with_images.value == 0.5
    assert (result.longer_wins.count, result.longer_wins.total, result.equally_long) == (2, 3, 1)
    assert (result.repeated.count, result.repeated.total) == (1, 4)
    assert result.winner_chars[2] == 3.5  # of 6, 2, 4, 3
    assert result.loser_chars[2] == 3.5  # of 5, 3, 4, 1: the mean of 3 and 4
    assert result.languages == {"en": 2, "de": 1, "fr": 1}
    assert result.noise is None


@pytest.mark.parametrize(("count", "total"), [(0, 10), (8, 10), (533, 1239), (5, 5)])
def test_share_interval_solves_wilsons_equation(count: int, total: int) -> None:
    """At each end p, the observed share is z standard errors away: (share - p)^2 = z^2 p (1 - p) / n."""
    share = CountShare.of(count, total)
    z2 = float(norm.ppf(0.975)) ** 2
    for p in (share.low, share.high):
        assert (count / total - p) ** 2 == pytest.approx(z2 * p * (1 - p) / total, abs=1e-12)
    assert share.low <= share.value <= share.high


def test_empty_source_has_no_statistics() -> None:
    """An empty source has NaN quantiles, and its interval of a share is 0 to 1."""
    result = audit([], source="s")
    assert (result.longer_wins.low, result.longer_wins.high) == (0.0, 1.0)
    assert math.isnan(result.prompt_chars[0])
    assert table([result]).splitlines()[1].split()[:2] == ["s", "0"]


def test_label_noise_by_margins(make_group: MakeGroup) -> None:
    """Margins of 5, -0.5, -2 and -3: the model disagrees with three, with one by more than 2. Ties and groups without
    scores are not counted."""
    groups = [
        make_group("a", "x", "y", "z", preferences=[Preference(0, 1), Preference(0, 2), Preference(1, 2, tie=True)]),
        make_group("b", "x", "y"),
        make_group("c", "x", "y"),
        make_group("d", "x", "y"),
    ]
    result = audit(groups, source="s", scores=[[5.0, 0.0, 5.5], [0.0, 2.0], None, [-1.5, 1.5]])
    assert result.noise is not None
    assert (result.noise.disagrees.count, result.noise.disagrees.total) == (3, 4)
    assert (result.noise.strongly.count, result.noise.threshold) == (1, 2.0)
    bins = {low: number for low, _, number in result.noise.bins if number}
    assert bins == {-4.0: 1, -2.0: 1, -1.0: 1, 4.0: 1}
    assert sum(number for _, _, number in result.noise.bins) == 4
    assert "75.0% (30.1% to 95.4%)" in table([result])


@pytest.mark.parametrize(
    "scores",
    [[[1.0, 2.0]], [[1.0, 2.0]] * 3, [[1.0], [1.0, 2.0]], [[1.0, math.nan], [1.0, 2.0]]],
    ids=["one too few", "one too many", "of one response", "not a number"],
)
def test_scores_that_do_not_match_the_groups_are_an_error(make_group: MakeGroup, scores: list[list[float]]) -> None:
    """Too few, too many or non-finite scores are an error: they could belong to other groups."""
    with pytest.raises(DataError, match="scores"):
        audit([make_group("a", "x", "y")] * 2, source="s", scores=scores)


@pytest.mark.parametrize(
    ("text", "language_code"),
    [
        ("What do you see in this picture, and why?", "en"),
        ("Was siehst du auf diesem Bild, und warum?", "de"),
        ("请详细描述这张图片里的内容。", "zh"),
        ("この写真には何が写っていますか。", "ja"),
        ("Что изображено на этой фотографии?", "ru"),
        ("ماذا ترى في هذه الصورة؟", "ar"),
        ("", "unsure"),
        ("\ud800", "unsure"),
        ("3 + 4 = 7", "unsure"),
    ],
)
def test_languages(text: str, language_code: str) -> None:
    """Sentences have their language code; text without a recognizable language is "unsure"."""
    assert language(text) == language_code


def test_language_every_samples_the_groups(make_group: MakeGroup) -> None:
    """With `language_every=3`, the language of groups 0, 3 and 6 of seven is detected."""
    result = audit([make_group("What do you see here?", "x", "y")] * 7, source="s", language_every=3)
    assert result.languages == {"en": 3}


def test_the_length_bias_of_vl_rewardbench(vl_groups: list[Group]) -> None:
    """The chosen answer has more characters in 42.6 % of all 1,250 pairs; more than 95 % of the prompts are English."""
    result = audit(vl_groups, source="vl")
    num_longer = sum(
        len(g.responses[g.preferences[0].winner]) > len(g.responses[g.preferences[0].loser]) for g in vl_groups
    )
    assert result.longer_wins.count == num_longer
    assert num_longer / 1250 == pytest.approx(0.426, abs=0.0005)
    assert result.longer_wins.total + result.equally_long == 1250
    assert result.images == {1: 1250}
    assert result.languages["en"] / 1250 > 0.95
