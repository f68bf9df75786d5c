"""The same rows as `ultra_feedback_all`, one pair a prompt."""

from __future__ import annotations

from pathlib import Path

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.ultra_feedback_all import GROUPS, LOST, write_rows


def write(folder: Path) -> Expected:
    """7.5 against 1, the first of the two best."""
    write_rows(folder)
    return Expected(
        groups=GROUPS,
        prompt=(("user", "Name a river."),),
        responses=("The Elbe.", "Blue."),
        preferences=(Preference(0, 1),),
        lost=LOST,
    )
