"""In which language a text is written."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

UNSURE = "unsure"
SURE = 0.5  # probability from which a language is named
MAX_CHARS = 500  # of a text that are looked at: more change nothing and cost time


def language(text: str) -> str:
    """The ISO 639 code of the text's language, or `unsure`, as of a word or a formula.

    >>> language("Describe this image in detail."), language("请详细描述这张图片。"), language("x = 3 + 4")
    ('en', 'zh', 'unsure')
    """
    code, probability = _identifier().classify(text[:MAX_CHARS])
    return code if probability >= SURE else UNSURE


@cache
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # its model takes half a second to load

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
