"""A page about the rows of a source: pictures, prompts, ranked responses, and what a model thinks of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from basereward.data.group import SPLITS, Group, Split
from basereward.data.screening import RowLost
from basereward.data.sources import Source
from basereward.errors import DataError
from basereward.evaluate.collect import Score, collect
from basereward.evaluate.page import page
from basereward.io.files import write_atomic
from basereward.recipe import make
from basereward.recipe.fragment import load_source

ROWS = 200


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
        source: a name in `experiments/sources`, or a path to a JSON Lines file.
        model: what `load` opens; its scores are shown, and where it disagrees with the data.
        rows: at most so many are shown, spread evenly.
        split: the part to look at; None: all of them.
        out: the page; by default `<source>.look.html` in the working directory, whole or not at all.
        overrides: `key=value` for arguments of the source.

    Returns:
        `out`; `rows`, the number shown; `lost`, the number of rows by reason; `model`.

    Raises:
        BaseRewardError: the source or the model cannot be opened, or the source has no rows in that part.
    """
    name, node = load_source(source, overrides=overrides)
    target = Path(out or f"{name}.look.html")
    if not target.parent.is_dir():
        raise DataError(
            f"the page cannot be written to '{target}': there is no folder '{target.parent}'. Make it first."
        )
    made: Source = make(node, "sources", name)
    splits: Sequence[Split] = SPLITS if split is None else (split,)
    data = collect(made, splits, rows=rows, score=_scores(model) if model else None)
    if not data["facts"]["rows"]:
        raise DataError(f"source '{name}' has no rows in the part {' or '.join(splits)}; there is nothing to look at")
    write_atomic(target, page("look", {**data, "model": model}))
    return {"out": str(target), "rows": data["facts"]["shown"], "lost": data["facts"]["lost"], "model": model}


def _scores(model: str) -> Score:
    from basereward.train.score import load  # seconds; not needed without a model

    scorer = load(model)

    def score(group: Group) -> list[float]:
        try:
            return next(iter(scorer.score_groups([group])))
        except DataError as error:
            if isinstance(error.__cause__, RowLost):
                raise error.__cause__ from None  # this one row cannot be scored; the others can
            raise

    return score
