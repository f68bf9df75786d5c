"""What text a group may have: not too much of it, none that no tokenizer takes, and something to see in it."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection

from basereward.data.schema.group import Group
from basereward.data.schema.rejections import RowRejected

MAX_CHARACTERS = 2 * 2**20
"""Characters of all texts of a group. A tokenizer needs seconds for a text of a megabyte without spaces, and far more
than twice as long for one of two; the longest context of a backbone holds less."""

# Letters by Unicode's categories, and nothing to see: joiners, variation selectors, fillers, the empty braille cell.
INVISIBLE = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0" + "".join(map(chr, range(0xFE00, 0xFE10))))
INVISIBLE_KINDS = ("Cc", "Cf", "Zl", "Zp", "Zs")


def check_text(group: Group) -> None:
    """Passes a group whose texts can be given to a tokenizer.

    Raises:
        RowRejected: `text_too_long`, or `half_surrogate`, which no tokenizer takes.
    """
    texts = [part.text for turn in group.prompt for part in turn.parts if part.text is not None]
    texts += [*group.responses, *group.critiques, *(reasoning.text for reasoning in group.reasonings)]
    check_texts(texts)


def check_texts(texts: Collection[str]) -> None:
    """As `check_text`, for texts that belong together."""
    characters = sum(map(len, texts))
    if characters > MAX_CHARACTERS:
        detail = f"the texts of the row have {characters:,} characters together; at most {MAX_CHARACTERS:,} are read"
        raise RowRejected("text_too_long", detail)
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            detail = f"half of a surrogate pair, {text[error.start]!a}, stands at character {error.start + 1} of a text"
            raise RowRejected("half_surrogate", detail) from None


def is_blank(text: str) -> bool:
    """Whether there is nothing to see in a text: it is empty, or all space, zero-width or control characters.

    >>> is_blank("\\u200b\\ufeff \\n"), is_blank("\\u200ba")
    (True, False)
    """
    return all(letter in INVISIBLE or unicodedata.category(letter) in INVISIBLE_KINDS for letter in text)
