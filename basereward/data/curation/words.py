"""Texts made comparable: what differs in capitals, punctuation, spacing or Unicode form only becomes equal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from hashlib import blake2b

from basereward.data.schema.group import Group

# Thai, Lao, Burmese, Khmer, Japanese, Chinese and Korean: scripts in which words are not, or not reliably, set apart.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation; a character of a script without spaces is a word.

    >>> words("Who's there?  ÉTÉ 東京")
    ['who', 's', 'there', 'été', '東', '京']
    """
    if not text.isascii():
        text = _UNSPACED.sub(r" \g<0> ", unicodedata.normalize("NFKC", text))
    return _WORD.findall(text.casefold())


def normalise(text: str) -> str:
    """The words with single spaces between; of a text without any, what is there instead.

    >>> normalise(" Describe this image, in detail! "), normalise(" ?! ")
    ('describe this image in detail', '?!')
    """
    return " ".join(words(text)) or "".join(text.split())


def shingles(sequence: Sequence[str], *, size: int) -> set[str]:
    """Every `size` words that follow each other; the whole when it is shorter, nothing of nothing.

    >>> sorted(shingles(["a", "b", "c"], size=2)), shingles(["a"], size=2), shingles([], size=2)
    (['a b', 'b c'], {'a'}, set())
    """
    if not sequence:
        return set()
    return {" ".join(sequence[i : i + size]) for i in range(max(1, len(sequence) - size + 1))}


def prompt_text(group: Group, *, system: bool = True) -> str:
    """The text of all turns of the prompt, in order; those of the system only if wanted."""
    turns = [turn for turn in group.prompt if system or turn.role != "system"]
    return "\n".join("".join(part.text or "" for part in turn.parts) for turn in turns)


def hash64(*parts: str | bytes | int) -> int:
    """A hash of 64 bits, the same in every process; where one part ends and the next begins counts."""
    digest = blake2b(digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return int.from_bytes(digest.digest(), "big")
