"""The stage that keeps rows by a number that each has, such as its attempts or the margin of its scores."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from basereward.errors import DataError
from basereward.pipelines.stages.contracts import StageResult, write_rows
from basereward.pipelines.stages.row_files import read_rows


class Select:
    """Keeps the rows of files whose number in a column is within limits.

    R1-Reward uses rows that took at least two attempts, and unsolved rows, whose number of attempts is one more than
    allowed. Output: `rows`. A row whose id is in several files is kept once.

    Args:
        rows: a JSON Lines file, or several.
        column: of the number.
        at_least, at_most: limits, both included; null: none.
        limit: the most rows, drawn by `seed`; null: all.
        seed: of the draw.
    """

    outputs: ClassVar[tuple[str, ...]] = ("rows",)
    uncounted: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        rows: str | list[str],
        column: str = "attempts",
        at_least: float | None = None,
        at_most: float | None = None,
        limit: Annotated[int, Ge(1)] | None = None,
        seed: int = 0,
    ) -> None:
        if at_least is None and at_most is None and limit is None:
            raise ValueError("select keeps all rows without at_least, at_most and limit; give one of them")
        self.files = [rows] if isinstance(rows, str) else rows
        self.column = column
        self.at_least = at_least
        self.at_most = at_most
        self.limit = limit
        self.seed = seed

    def definitions(self) -> Mapping[str, Any]:
        """As `Stage.definitions`; all arguments are files or values."""
        return {}

    def inputs(self) -> Sequence[Path]:
        """As `Stage.inputs`: the rows."""
        return [Path(file) for file in self.files]

    def preview(self, folder: Path) -> Mapping[str, str]:
        """As `Stage.preview`: all rows of the stand-ins, since their numbers mean nothing."""
        rows = [row for row, _ in self._numbered([])]
        return {"rows": write_rows(folder / "rows.jsonl", rows)}

    def run(self, folder: Path) -> StageResult:
        """As `Stage.run`."""
        repeated: list[str] = []
        numbered = list(self._numbered(repeated))
        kept = [row for row, number in numbered if self._is_within(number)]
        if not kept:
            numbers = [number for _, number in numbered]
            found = f"they are {min(numbers):g} to {max(numbers):g}" if numbers else "there are no rows"
            raise DataError(
                f"none of {len(numbered)} rows has a '{self.column}' within the limits (at least {self.at_least}, at "
                f"most {self.at_most}): {found}. Change the limits"
            )
        if self.limit is not None and len(kept) > self.limit:
            places = sorted(random.Random(f"select/{self.seed}").sample(range(len(kept)), self.limit))
            kept = [kept[place] for place in places]
        counts = {"read": len(numbered) + len(repeated), "kept": len(kept), "repeated": len(repeated)}
        metrics = {f"select/{name}": float(count) for name, count in counts.items()}
        return StageResult({"rows": write_rows(folder / "rows.jsonl", kept)}, metrics, counts)

    def _is_within(self, number: float) -> bool:
        above = self.at_least is None or number >= self.at_least
        return above and (self.at_most is None or number <= self.at_most)

    def _numbered(self, repeated: list[str]) -> Iterator[tuple[dict[str, Any], float]]:
        """The rows with their numbers.

        Args:
            repeated: gets the id of every row that is left out because a row before it has the same id.

        Raises:
            DataError: a row has no such number.
        """
        seen: set[str] = set()
        for row in read_rows(*self.files):
            name = row.get("id")
            if isinstance(name, str):
                if name in seen:
                    repeated.append(name)
                    continue
                seen.add(name)
            number = row.get(self.column)
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise DataError(
                    f"a row of {', '.join(self.files)} (id {name!r}) has no number in column '{self.column}': "
                    f"{number!r}. Its columns: {', '.join(row)}"
                )
            yield row, float(number)
