"""The stage that scores rows, so that others can be selected by their margin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from basereward.data.schema.group import Group
from basereward.data.sources.jsonl import read_rows as read_groups
from basereward.errors import DataError
from basereward.inference.model_content import named_model_content
from basereward.inference.score_file import score
from basereward.pipelines.stages.contracts import StageResult, definition, write_rows
from basereward.pipelines.stages.row_files import read_rows

# Not `margin`, which is a column of preference data: by how much the annotators prefer a response.
MARGIN = "score_margin"


class Score:
    """Scores the responses of rows with a model.

    Output: `rows`, the same rows with the columns `scores`, and `score_margin`: by how much a preferred response scores
    higher, the least of all preferences of the row. A row without preferences has no margin and is left out.

    Args:
        rows: a JSON Lines file, or several.
        model: what `load` opens, such as `${teacher.run}`.
    """

    outputs: ClassVar[tuple[str, ...]] = ("rows",)
    uncounted: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, rows: str | list[str], model: str) -> None:
        self.files = [rows] if isinstance(rows, str) else rows
        self.model = model

    def definitions(self) -> Mapping[str, Any]:
        """As `Stage.definitions`: the content of the model."""
        return {"model": definition(partial(named_model_content, self.model))}

    def inputs(self) -> Sequence[Path]:
        """As `Stage.inputs`: the rows."""
        return [Path(file) for file in self.files]

    def preview(self, folder: Path) -> Mapping[str, str]:
        """As `Stage.preview`, with margins of 0."""
        rows = [row | {MARGIN: 0.0} for row in read_rows(*self.files)]
        return {"rows": write_rows(folder / "rows.jsonl", rows)}

    def run(self, folder: Path) -> StageResult:
        """As `Stage.run`; the scores are computed once."""
        rows = list(read_rows(*self.files))
        copied, scores = Path(write_rows(folder / "unscored.jsonl", rows)), folder / "scores.jsonl"
        if not scores.is_file():
            score(self.model, str(copied), out=str(scores))
        scored = []
        lines = scores.read_text().splitlines()
        for row, group, line in zip(rows, read_groups(str(copied)), lines, strict=True):
            values = json.loads(line)["scores"]
            margin = _margin(group, values)
            if margin is not None:
                scored.append(row | {"scores": values, MARGIN: margin})
        if not scored:
            raise DataError(f"the {len(rows)} rows of {', '.join(self.files)} have no preferences except ties")
        right = sum(row[MARGIN] > 0 for row in scored)
        counts = {"rows": len(scored), "without_preference": len(rows) - len(scored), "right": right}
        metrics = {f"score/{name}": float(count) for name, count in counts.items()}
        return StageResult({"rows": write_rows(folder / "rows.jsonl", scored)}, metrics, counts)


def _margin(group: Group, scores: list[float]) -> float | None:
    margins = [scores[p.winner] - scores[p.loser] for p in group.preferences if not p.tie]
    return min(margins, default=None)
