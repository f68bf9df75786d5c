"""Texts that say the same are equal, others are not."""

from __future__ import annotations

import pytest

from basereward.data.curation.words import hash64, normalise, shingles, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("What's  THIS?\n", "what's this", id="capitals, spaces, punctuation"),
        pytest.param("a \ufb01ne caf\u00e9", "a fine cafe\u0301", id="ligature and accent"),
        pytest.param("\uff21\uff22\uff23 \uff11", "abc 1", id="full width"),
        pytest.param("<image>\ud800 yes", "image yes", id="a surrogate that stands alone"),
    ],
)
def test_the_same_words_are_equal(one: str, other: str) -> None:
    """Form does not count."""
    assert normalise(one) == normalise(other)


def test_symbols_without_words_stay_apart() -> None:
    """Of "?!" and "..." nothing but their signs would be left."""
    assert normalise("? !") == "?!" != normalise("...")
    assert normalise("  ") == ""


def test_chinese_is_taken_character_by_character() -> None:
    """Otherwise a sentence would be one word, and a text with one other sign would share nothing."""
    assert words("这是猫 ok") == ["这", "是", "猫", "ok"]


def test_shingles_are_all_runs() -> None:
    """Five words hold three runs of three; a shorter text is its own."""
    assert shingles("a b c d e".split(), size=3) == {"a b c", "b c d", "c d e"}
    assert shingles(["a", "b"], size=3) == {"a b"}


def test_the_border_between_parts_counts() -> None:
    """Else a prompt could lend its end to the response."""
    assert hash64("ab", "c") != hash64("a", "bc")
    assert hash64("\ud800") == hash64("\ud800")
