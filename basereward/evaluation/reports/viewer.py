"""A page about the rows of a source: pictures, prompts, ranked responses, and what a model thinks of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from basereward.data.schema.group import SPLITS, Group, Split
from basereward.data.schema.rejections import RowRejected
from basereward.data.sources import Source
from basereward.errors import DataError
from basereward.evaluation.reports.viewer_rows import Score, collect
from basereward.evaluation.reports.page import page
from basereward.io.files import write_atomic
from basereward.io.outputs import check_outputs
from basereward.recipe import make
from basereward.recipe.fragment import load_source

ROWS = 200
FAULTS = 3  # lost rows that a message shows


def look(
    source: str,
    *,
    model: str | None = None,
    rows: int = ROWS,
    split: Split | None = None,
    out: str | None = None,
    overrides: Iterable[str] = (),
) -> dict[str, Any]:
    """Writes one HTML page about a source, which needs no other file and no network.

    Args:
        source: a name in `experiments/sources`, or a path to a file with rows.
        model: what `load` opens; its scores are shown, and where it disagrees with the data.
        rows: at most so many are shown, spread evenly.
        split: the part to look at; None: all of them.
        out: the page; by default `<source>.look.html` in the working directory, whole or not at all.
        overrides: `key=value` for arguments of the source.

    Returns:
        `out`; `rows`, the number shown; `read`, the number of those that were picked to be shown, whose pictures were
        opened; `total`, the number of all rows; `lost`, the number of rows by reason: of all that are malformed, and of
        those picked that cannot be shown; `model`.

    Raises:
        BaseRewardError: the source or the model cannot be opened, the source has no rows in that part, or none of those
            picked can be shown.
    """
    name, node = load_source(source, overrides=overrides)
    target = Path(out or f"{name}.look.html")
    if not target.parent.is_dir():
        raise DataError(
            f"the page cannot be written to '{target}': there is no folder '{target.parent}'. Make it first."
        )
    check_outputs({"--out": target}, [value for value in node.values() if isinstance(value, str) and value])
    made: Source = make(node, "sources", name)
    splits: Sequence[Split] = SPLITS if split is None else (split,)
    data = collect(made, splits, rows=rows, score=_scores(model) if model else None)
    if not data["facts"]["rows"]:
        raise DataError(f"source '{name}' has no rows in the part {' or '.join(splits)}; there is nothing to look at")
    facts = data["facts"]
    if not facts["shown"]:
        first = [f"  {row['id']}: {row['reason']}: {row['detail']}" for row in data["lost"][-FAULTS:]]
        reasons = ", ".join(f"{reason} {number}" for reason, number in facts["lost"].items())
        raise DataError(
            f"source '{name}': no row can be shown of {facts['rows']}, {facts['read']} of which were read ({reasons}); "
            "the last:\n" + "\n".join(first)
        )
    write_atomic(target, page("look", {**data, "model": model}))
    return {
        "out": str(target),
        "rows": facts["shown"],
        "read": facts["read"],
        "total": facts["rows"],
        "lost": facts["lost"],
        "model": model,
    }


def _scores(model: str) -> Score:
    from basereward.inference.score_file import load  # seconds; not needed without a model

    scorer = load(model)

    def score(group: Group) -> list[float]:
        try:
            return next(iter(scorer.score_groups([group])))
        except DataError as error:
            if isinstance(error.__cause__, RowRejected):
                raise error.__cause__ from None  # this one row cannot be scored; the others can
            raise

    return score
