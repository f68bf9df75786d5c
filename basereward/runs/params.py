"""Names and values in the form that MLflow takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from basereward.io.names import clean_name as clean_name

MAX_PARAM = 6000
MAX_TAG = 8000


def flatten(values: Mapping[str, Any], *, prefix: str = "") -> dict[str, str]:
    """Nested mappings as one, with dotted keys; what is not a string becomes JSON, cut off where MLflow would.

    >>> flatten({"optimizer": {"lr": 1e-05, "betas": [0.9, 0.999]}, "model": {"lora": None}})
    {'optimizer.lr': '1e-05', 'optimizer.betas': '[0.9, 0.999]', 'model.lora': 'null'}
    """
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, prefix=f"{name}."))
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[clean_name(name)] = shorten(text, limit=MAX_PARAM)
    return flat


def shorten(text: str, *, limit: int) -> str:
    """The text, or as much of it as fits, with a mark that some is missing.

    >>> shorten("abcdef", limit=5), shorten("abc", limit=5)
    ('ab...', 'abc')
    """
    return text if len(text) <= limit else text[: limit - 3] + "..."
