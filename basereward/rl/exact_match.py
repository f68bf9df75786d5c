"""Exact match of a policy's text with reference answers, the rule that rewards checkable answers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from basereward.model.generation.verdicts import THINK_CLOSE

TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
SPACES = re.compile(r"\s+")


def normalised(text: str) -> str:
    """A text as it is compared.

    Of a text with reasoning only what follows the last `</think>` counts, and of that the content of the last
    `<answer>...</answer>` if there is one. Then: Unicode's compatibility form (NFKC), case folded, runs of white space
    as one space, none at the ends, and no full stop at the end. Nothing else is changed: `7.0` is not `7`.

    >>> normalised("<think>Seven?</think><answer> The  Digit is 7. </answer>")
    'the digit is 7'
    """
    rest = text.rpartition(THINK_CLOSE)[2]
    tagged = TAGGED.findall(rest)
    plain = unicodedata.normalize("NFKC", tagged[-1] if tagged else rest).casefold()
    return SPACES.sub(" ", plain).strip().removesuffix(".").rstrip()


def exact_match(text: str, answers: Iterable[str]) -> bool:
    """Whether a text is one of the reference answers, both normalised. An empty text matches none.

    >>> exact_match("It is 7.", ["it is 7", "7"]), exact_match("77", ["7"]), exact_match("", [""])
    (True, False, False)
    """
    own = normalised(text)
    return own != "" and own in {normalised(answer) for answer in answers}
