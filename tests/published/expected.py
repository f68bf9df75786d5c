"""What a reader must find in the few rows that a fixture writes in a published data set's own shape.

A fixture is a file `tests/published/<name>.py` for `experiments/sources/<name>.yaml`, with `write(folder) -> Expected`:
it writes a folder of the layout that the hub has, in words and pictures of our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from basereward.data.schema.group import Preference


@dataclass(frozen=True)
class Expected:
    """What is in a fixture's folder.

    `prompt`, `responses`, `preferences` and `images` (their number) are those of the first group. A turn of the prompt
    is its role and its text, with "<image>" where a picture stands.
    """

    groups: int
    prompt: tuple[tuple[str, str], ...]
    responses: tuple[str, ...]
    preferences: tuple[Preference, ...]
    images: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)  # reason -> number of rows
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the source, besides `path`
