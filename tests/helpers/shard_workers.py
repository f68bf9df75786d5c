"""Workers of shards that need no model, and that end their process when a test asks for it."""

from __future__ import annotations

import hashlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basereward.errors import DataError


@dataclass(frozen=True)
class Squares:
    """Writes the square of each number, and notes every shard that is worked on.

    Attributes:
        numbers: the rows.
        notes: the file of the notes; a line for each beginning.
        kill_at: the number at which the process kills itself, or the victim.
        kills: how often, in all processes together.
        bad: a number that is refused.
        victim: number of the process that is killed; 0: its own.
    """

    numbers: tuple[int, ...]
    notes: str
    kill_at: int = -1
    kills: int = 0
    bad: int = -1
    victim: int = 0

    def __call__(self) -> Squares:
        """Return the worker."""
        return self

    def key(self, rows: range) -> str:
        """Hash the numbers."""
        return hashlib.sha256(repr(self.numbers[rows.start : rows.stop]).encode()).hexdigest()[:16]

    def write(self, rows: range, target: Path) -> dict[str, Any]:
        """Write a line for each number."""
        with open(self.notes, "a") as notes:
            notes.write(f"{rows.start}\n")
        with target.open("w") as output:
            for row in rows:
                number = self.numbers[row]
                if number == self.bad:
                    raise DataError(f"{number} is bad")
                if number == self.kill_at and Path(self.notes).read_text().split().count(str(rows.start)) <= self.kills:
                    output.flush()
                    os.kill(self.victim or os.getpid(), signal.SIGKILL)
                output.write(f"{number**2}\n")
        return {"rows": len(rows)}
