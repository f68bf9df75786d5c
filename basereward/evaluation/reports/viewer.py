"""Write an HTML page that shows the rows of a source: images, prompts, ranked responses, and scores of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

from basereward.data.schema.group import SPLITS, Group, Split
from basereward.data.schema.rejections import RowRejected
from basereward.data.source_files import check_source_outputs
from basereward.data.sources import Source
from basereward.data.summary import describe_reading, first_shown
from basereward.data.videos.clips import VideoProcessor
from basereward.errors import DataError
from basereward.evaluation.reports.page import render_data_page
from basereward.evaluation.reports.viewer_files import ViewerFiles, folder_beside
from basereward.evaluation.reports.viewer_rows import ScoreGroup, collect
from basereward.io.files import write_atomic
from basereward.io.outputs import check_folder_of
from basereward.io.progress import phase
from basereward.recipe import make
from basereward.recipe.fragment import load_source
from basereward.runs.resolve_model import resolve_model

# As many as a person looks through.
ROWS = 200
# Rejected rows that an error message quotes.
MAX_QUOTED = 3


def look(
    source: str,
    *,
    model: str | None = None,
    rows: int = ROWS,
    split: Split | None = None,
    out: str | None = None,
    overrides: Iterable[str] = (),
) -> dict[str, Any]:
    """Write an HTML page about the rows of a source.

    Rows and pictures that do not fit into 5 MB are files in a folder beside the page, from which it loads what a reader
    asks for; pictures of the source that are files already are then shown from their place.

    Args:
        source: a name in `experiments/sources`, or rows: a file, a folder, a pattern or a hub id.
        model: what `load` opens. The page then shows its scores, where it disagrees with the preferences, and the
            frames of videos that it reads; of an ensemble, those that its first model reads.
        rows: the maximum number of rows on the page, evenly spaced over the source.
        split: show this split only; None: all splits.
        out: the page; `<source>.look.html` in the working directory by default. It is written atomically. The folder
            beside it has its name, with `.files` in place of `.html`.
        overrides: `key=value` for arguments of the source.

    Returns:
        `out`; `folder`, that of the files beside the page, or None; `rows`, the number of rows shown; `read`, the
        number of rows selected, whose images were opened; `total`, the number of all rows; `lost`, rejected rows by
        reason: all malformed rows, and selected rows that cannot be shown; `model`; `reading`, how the rows are read,
        as `describe_reading` gives it.

    Raises:
        BaseRewardError: the source or the model cannot be opened, the split has no rows, or no selected row can be
            shown.
    """
    name, node = load_source(source, overrides=overrides)
    target = _target(out or f"{name}.look.html")
    opened: Source = make(node, "sources", name)
    splits: Sequence[Split] = SPLITS if split is None else (split,)
    check_source_outputs(
        {"--out": target},
        source,
        node,
        chain.from_iterable(opened.groups(part) for part in splits),
        also=[resolve_model(model)] if model else [],
        folders={"the folder beside it": folder_beside(target)},
        writes_rows=False,
    )
    files = ViewerFiles(target)
    files.check()
    with phase("loading the model") if model else nullcontext():
        scorer, videos = _scorer(model) if model else (None, None)
    data = collect(opened, splits, rows=rows, score=scorer, videos=videos, files=files)
    _check_shown(name, splits, data)
    _write_page(target, {**data, "model": model})
    facts = data["facts"]
    return {
        "out": str(target),
        "folder": str(files.folder) if data["files"] is not None else None,
        "rows": facts["shown"],
        "read": facts["read"],
        "total": facts["rows"],
        "lost": facts["lost"],
        "model": model,
        "reading": describe_reading(opened, first_shown(opened.groups(part) for part in splits)),
    }


def _target(out: str) -> Path:
    """The path of the page.

    Raises:
        DataError: its folder does not exist.
    """
    target = Path(out)
    check_folder_of(target, what="the page")
    return target


def _check_shown(name: str, splits: Sequence[Split], data: Mapping[str, Any]) -> None:
    """
    Raises:
        DataError: the source has no rows, or none of those that were read can be shown.
    """
    facts = data["facts"]
    if not facts["rows"]:
        raise DataError(f"source '{name}' has no rows in the split {' or '.join(splits)}; there is nothing to look at")
    if not facts["shown"]:
        raise _no_row_shown(name, data)


def _write_page(target: Path, data: Mapping[str, Any]) -> None:
    has_files = data["files"] is not None
    page = render_data_page("viewer", data, title="Rows of a source", styles=["articles"], has_files=has_files)
    write_atomic(target, page)


def _no_row_shown(name: str, data: Mapping[str, Any]) -> DataError:
    facts = data["facts"]
    quoted = [f"  {row['id']}: {row['reason']}: {row['detail']}" for row in data["lost"][-MAX_QUOTED:]]
    reasons = ", ".join(f"{reason} {number}" for reason, number in facts["lost"].items())
    head = (
        f"source '{name}': no row can be shown. {facts['read']} of {facts['rows']} rows were read ({reasons}). "
        "The last of them:"
    )
    return DataError("\n".join([head, *quoted]))


def _scorer(model: str) -> tuple[ScoreGroup, VideoProcessor | None]:
    """What scores a group, and how the model reads videos; None if it reads none."""
    # Importing the scorer takes seconds, and a page without a model does not need it.
    from basereward.inference.ensemble import Ensemble
    from basereward.inference.load_model import load
    from basereward.inference.scorer import Scorer

    scorer = load(model)

    def score(group: Group) -> list[float]:
        try:
            return next(iter(scorer.score_groups([group])))
        except DataError as error:
            # The cause says that this one row cannot be scored; the page goes on with the others.
            if isinstance(error.__cause__, RowRejected):
                raise error.__cause__ from None
            raise

    first = scorer.scorers[0] if isinstance(scorer, Ensemble) else scorer
    return score, first.encoder.videos if isinstance(first, Scorer) else None
