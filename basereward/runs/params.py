"""Names and values in the form that MLflow accepts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from basereward.io.names import clean_name as clean_name

AXIS = "axis"
"""Prefix of a sweep's axes among parameters and tags, as in `axis.head`."""
MAX_PARAM = 6000
"""The limit of MLflow for the value of a parameter, in characters."""
MAX_TAG = 8000
"""The limit of MLflow for the value of a tag, in characters."""


def flatten(values: Mapping[str, Any], *, prefix: str = "") -> dict[str, str]:
    """Flatten nested mappings into one with dotted keys.

    Values that are not strings become JSON, which is cut at `MAX_PARAM` characters.

    Args:
        values: nested mappings.
        prefix: put before every key.

    >>> flatten({"optimizer": {"lr": 1e-05, "betas": [0.9, 0.999]}, "model": {"lora": None}})
    {'optimizer.lr': '1e-05', 'optimizer.betas': '[0.9, 0.999]', 'model.lora': 'null'}
    """
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        # An empty mapping is a value of its own; flattened it would vanish.
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, prefix=f"{name}."))
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[clean_name(name)] = shorten(text, limit=MAX_PARAM)
    return flat


def shorten(text: str, *, limit: int) -> str:
    """Cut a text to a number of characters, with `...` where something is missing.

    >>> shorten("abcdef", limit=5), shorten("abc", limit=5)
    ('ab...', 'abc')
    """
    return text if len(text) <= limit else text[: limit - 3] + "..."
