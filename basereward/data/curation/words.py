"""Normalizes texts for comparison: capitals, punctuation, spacing and the Unicode form are ignored."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from hashlib import blake2b

from basereward.data.schema.group import Group

# Thai, Lao, Burmese, Khmer, Japanese, Chinese and Korean: scripts that do not reliably separate words by spaces. A
# sentence would be one word, and two sentences with one different character would have nothing in common.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Split a text into words in lower case, without punctuation.

    Every character of a script without spaces between words is a word.

    >>> words("Who's there?  ÉTÉ 東京")
    ['who', 's', 'there', 'été', '東', '京']
    """
    # Most texts are ASCII, which NFKC does not change.
    if not text.isascii():
        text = _UNSPACED.sub(r" \g<0> ", unicodedata.normalize("NFKC", text))
    # `casefold` also equates letters without a one-letter lower case, such as the German sharp s and "ss".
    return _WORD.findall(text.casefold())


def normalise(text: str) -> str:
    """Join the words of a text with single spaces. A text without words is returned without its white space.

    >>> normalise(" Describe this image, in detail! "), normalise(" ?! ")
    ('describe this image in detail', '?!')
    """
    # Otherwise all texts without words, such as "?!" and "...", would be equal.
    return " ".join(words(text)) or "".join(text.split())


def shingles(sequence: Sequence[str], *, size: int) -> set[str]:
    """Return the word n-grams of a sequence. A shorter sequence is one n-gram; an empty one has none.

    Args:
        sequence: the words.
        size: the number of words of an n-gram.

    >>> sorted(shingles(["a", "b", "c"], size=2)), shingles(["a"], size=2), shingles([], size=2)
    (['a b', 'b c'], {'a'}, set())
    """
    if not sequence:
        return set()
    return {" ".join(sequence[i : i + size]) for i in range(max(1, len(sequence) - size + 1))}


def prompt_text(group: Group, *, system: bool = True) -> str:
    """Join the texts of all turns of a prompt, in order.

    Args:
        group: the group.
        system: whether to include system turns.

    >>> from basereward.data.schema.group import Part, Turn
    >>> prompt = (Turn("system", (Part("Be brief."),)), Turn("user", (Part("Why?"),)))
    >>> prompt_text(Group("a", "s", prompt, (), ()), system=False)
    'Why?'
    """
    turns = [turn for turn in group.prompt if system or turn.role != "system"]
    return "\n".join("".join(part.text or "" for part in turn.parts) for turn in turns)


def hash64(*parts: str | bytes | int) -> int:
    """Hash a sequence of values to 64 bits, equal in every process, unlike Python's own `hash`.

    >>> hash64("ab", "c") == hash64("a", "bc")
    False
    """
    digest = blake2b(digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        # With the length before each part, the end of one part cannot be moved to the next.
        digest.update(len(data).to_bytes(8, "big") + data)
    return int.from_bytes(digest.digest(), "big")
