"""Texts that differ only in form are equal after normalization, others are not."""

from __future__ import annotations

import pytest

from basereward.data.curation.words import hash64, normalise, shingles, words


@pytest.mark.parametrize(
    ("text", "same_text"),
    [
        pytest.param("What's  THIS?\n", "what's this", id="capitals, spaces, punctuation"),
        pytest.param("a \ufb01ne caf\u00e9", "a fine cafe\u0301", id="ligature and accent"),
        pytest.param("\uff21\uff22\uff23 \uff11", "abc 1", id="full width"),
        pytest.param("<image>\ud800 yes", "image yes", id="a surrogate that stands alone"),
    ],
)
def test_the_same_words_are_equal(text: str, same_text: str) -> None:
    """Capitals, spacing, punctuation and the Unicode form are ignored."""
    assert normalise(text) == normalise(same_text)


def test_symbols_without_words_stay_apart() -> None:
    """Texts such as "?!" and "..." have no words, so they are compared by their characters."""
    assert normalise("? !") == "?!" != normalise("...")
    assert normalise("  ") == ""


def test_chinese_is_split_into_characters() -> None:
    """Otherwise a sentence would be one word, and two sentences with one different character would share nothing."""
    assert words("这是猫 ok") == ["这", "是", "猫", "ok"]


def test_shingles_are_all_n_grams() -> None:
    """Five words have three 3-grams; a shorter text is one n-gram."""
    assert shingles("a b c d e".split(), size=3) == {"a b c", "b c d", "c d e"}
    assert shingles(["a", "b"], size=3) == {"a b"}


def test_the_border_between_parts_counts() -> None:
    """Otherwise the end of a prompt could be taken for the start of a response."""
    assert hash64("ab", "c") != hash64("a", "bc")
    assert hash64("\ud800") == hash64("\ud800")
