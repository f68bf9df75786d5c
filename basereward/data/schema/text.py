"""Checks of the texts of a group: their length, their encoding, and whether they are visible."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

from basereward.data.schema.group import Group
from basereward.data.schema.rejections import RowRejected

MAX_CHARACTERS = 2 * 2**20
"""The limit on all texts of a group together. A tokenizer needs seconds for a megabyte of text without spaces, and its
time grows faster than linearly. No backbone has a context of that length."""

# How chat templates begin a turn, and the tokens that end one.
RENDERED_TURN = re.compile(
    r"<\|im_start\|>\w+\n|<\|start_header_id\|>\w+<\|end_header_id\|>|<start_of_turn>(?:user|model)\n"
    r"|<\|(?:system|user|assistant)\|>\n|^(?:<s>)?\s?\[INST\] "
)
RENDERED_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>")

# Characters of the Unicode category "letter" or "mark" that are invisible: joiners, variation selectors, fillers,
# and the empty braille cell.
INVISIBLE = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0" + "".join(map(chr, range(0xFE00, 0xFE10))))
# The Unicode categories of control, format, line, paragraph and space characters.
INVISIBLE_KINDS = ("Cc", "Cf", "Zl", "Zp", "Zs")


def check_text(group: Group) -> None:
    """Check that a tokenizer can process the texts of a group.

    Raises:
        RowRejected: `text_too_long`, or `half_surrogate`, which no tokenizer accepts.

    >>> check_text(Group("0", "s", prompt=(), responses=("half: \\ud83d",)))
    Traceback (most recent call last):
    basereward.data.schema.rejections.RowRejected: character 7 of a text is '\\ud83d', half of a surrogate pair
    """
    texts: list[str] = []
    for turn in group.prompt:
        texts += [part.text for part in turn.parts if part.text is not None]
    texts += [*group.responses, *group.critiques, *(reasoning.text for reasoning in group.reasonings)]
    check_texts(texts)


def check_texts(texts: Collection[str]) -> None:
    """Check that a tokenizer can process the texts of one row.

    Raises:
        RowRejected: as `check_text`.

    >>> check_texts(["x" * MAX_CHARACTERS, "y"])
    Traceback (most recent call last):
    basereward.data.schema.rejections.RowRejected: the texts of the row have 2,097,153 characters together; ...
    """
    characters = sum(map(len, texts))
    if characters > MAX_CHARACTERS:
        detail = f"the texts of the row have {characters:,} characters together; at most {MAX_CHARACTERS:,} are allowed"
        raise RowRejected("text_too_long", detail)
    for text in texts:
        try:
            # UTF-8 has no code for half of a surrogate pair, so encoding finds it at the speed of C.
            text.encode()
        except UnicodeEncodeError as error:
            detail = f"character {error.start + 1} of a text is {text[error.start]!a}, half of a surrogate pair"
            raise RowRejected("half_surrogate", detail) from None


def is_rendered(text: str) -> bool:
    """Whether a text seems to be rendered by a chat template: a turn of it begins in the text, or the text ends one.

    Known are ChatML, Llama 3, Gemma, Zephyr and Llama 2. A text that only mentions a token is not rendered.

    >>> is_rendered("<|im_start|>user\\nHi<|im_end|>"), is_rendered("4<|eot_id|>"), is_rendered("Is <|im_end|> a word?")
    (True, True, False)
    """
    if "<" not in text and "[INST]" not in text:
        return False
    return RENDERED_TURN.search(text) is not None or text.rstrip().endswith(RENDERED_ENDS)


def is_blank(text: str) -> bool:
    """Whether a text is empty or has only space, zero-width or control characters.

    >>> is_blank("\\u200b\\ufeff \\n"), is_blank("\\u200ba")
    (True, False)
    """
    return all(letter in INVISIBLE or unicodedata.category(letter) in INVISIBLE_KINDS for letter in text)
