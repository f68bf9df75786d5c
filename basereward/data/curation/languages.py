"""Identifies the language of a text."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

UNSURE = "unsure"
# The probability from which a language is named.
SURE = 0.5
# Only the beginning of a text is classified: more text takes longer and does not change the result.
MAX_CHARS = 500


def language(text: str) -> str:
    """Return the ISO 639 code of a text's language, or `unsure`, for example for a single word or a formula.

    >>> language("Describe this image in detail."), language("请详细描述这张图片。"), language("x = 3 + 4")
    ('en', 'zh', 'unsure')
    """
    code, probability = _identifier().classify(text[:MAX_CHARS])
    return code if probability >= SURE else UNSURE


@cache
def _identifier() -> LanguageIdentifier:
    # Imported here, because the library is used by audits only and its model takes half a second to load.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    # Normalized probabilities, as the library's plain scores cannot be compared with a limit.
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
