"""Reads the first rows of every source on this machine, without torch, and finds what is wrong with them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basereward.errors import BaseRewardError, DataError, RecipeError, TooManyRowsLost
from basereward.io.files import cache_folder, files_below, set_aside
from basereward.io.formats import is_pattern, known_rows, rows_kind
from basereward.recipe import Recipe, make, recipe_sha256
from basereward.recipe.checks.targets import short_names
from basereward.runs.resolve_model import resolve_model
from basereward.runs.tracking.mlflow_store import database_of, tracking_uri
from basereward.training.checks.machine import Problem, hub_fault

if TYPE_CHECKING:
    from basereward.data.schema.group import Group, RejectedRow, Split
    from basereward.data.sources import Source

SAMPLED = 2000
"""Rows of each split of a source that are read: enough to find a wrong column, few enough for a second."""
GENERATED = ("digits", "numbers", "digit_pairs")
"""Names of sources that generate their rows. Such rows have no errors; a few are read to know their lengths."""
GENERATED_SAMPLE = 32
"""Rows of a generated source that are read."""


@dataclass
class SourceSample:
    """The first rows of a source.

    Attributes:
        name: of the source.
        target: the name of its class.
        path: of its rows; None for generated ones.
        read: whether its rows could be read here; a data set of the hub is not.
        complete: whether all of its rows were read.
        generated: the number of training groups of a generated source.
        groups: the usable rows by split.
        rejected: the others.
        columns: our name of each column that is read, and its name in the data.
        unread: columns of the data that are not read.

    >>> SourceSample("mine", target="jsonl").facts()["rows"]
    0
    """

    name: str
    target: str
    path: str | None = None
    read: bool = False
    complete: bool = False
    generated: int | None = None
    groups: dict[Split, Sequence[Group]] = field(default_factory=dict)
    rejected: list[RejectedRow] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """The number of rows that were read."""
        return sum(map(len, self.groups.values())) + len(self.rejected)

    def held_out(self) -> int | None:
        """The number of validation groups; None where it is unknown."""
        found = len(self.groups.get("val", ()))
        # In a larger file the first validation row may be far away.
        return found if found or self.complete or self.generated is not None else None

    def train_groups(self) -> int | None:
        """The number of training groups; None where it is unknown."""
        if self.generated is not None:
            return self.generated
        return len(self.groups["train"]) if self.complete else None

    def facts(self) -> dict[str, Any]:
        """What `check` reports about the source."""
        size = os.path.getsize(self.path) if self.path is not None and os.path.isfile(self.path) else None
        return {
            "target": self.target,
            "path": self.path,
            "bytes": size,
            "read": self.read,
            "complete": self.complete,
            "rows": self.rows,
            "groups": {split: len(groups) for split, groups in self.groups.items()},
            "rejected": len(self.rejected),
            "columns": self.columns,
            "unread": self.unread,
        }


def read_sources(recipe: Recipe, *, limits_rejected: bool = True) -> tuple[list[SourceSample], list[Problem]]:
    """Read the first rows of every source.

    Args:
        recipe: of the run.
        limits_rejected: whether too many rejected rows are a problem.

    Returns:
        A sample of each source, and what is wrong with the sources.

    >>> from basereward.recipe.schema import DataRecipe
    >>> recipe = Recipe(data=DataRecipe(sources={"mine": {"_target_": "jsonl", "path": "no-such-file.jsonl"}}))
    >>> samples, problems = read_sources(recipe)
    >>> [sample.rows for sample in samples], [key for key, message in problems]
    ([0], ['data.sources.mine'])
    """
    samples: list[SourceSample] = []
    problems: list[Problem] = []
    for name, node in recipe.data.sources.items():
        sample = SourceSample(name, target=str(node.get("_target_")), path=node.get("path"))
        samples.append(sample)
        try:
            _read(sample, node)
        except BaseRewardError as error:
            problems.append((f"data.sources.{name}", f"{error}{_kind_hint(sample.path)}"))
    problems += curation_problems(recipe)
    if not problems and limits_rejected:
        problems += rejection_problems(recipe, samples)
    if not problems:
        problems += mixture_problems(recipe, samples)
        problems += validation_problems(recipe, {sample.name: sample.held_out() for sample in samples})
    return samples, problems


def _read(sample: SourceSample, node: Mapping[str, Any]) -> None:
    """Fill in a sample.

    Raises:
        BaseRewardError: the source cannot be read.
    """
    if sample.target == "hub" and not Path(str(node.get("path"))).exists():
        if fault := hub_fault(str(node["path"]), kind="datasets"):
            raise DataError(fault)
        return
    # Code from outside this package is not run here: reading may take any time.
    if sample.target not in (*GENERATED, "jsonl", "hub"):
        return
    if fault := _folder_fault(sample.path):
        raise DataError(fault)
    source: Source = make(dict(node), "sources", sample.name)
    sample.read = True
    if sample.target in GENERATED:
        _draw(sample, source)
    else:
        _stream(sample, source)


def _read_reference(name: str, node: Mapping[str, Any]) -> None:
    """Read the first rows of a source, or all rows of a benchmark.

    Raises:
        BaseRewardError: it cannot be read.
    """
    target, path = str(node.get("_target_")), node.get("path")
    if target not in short_names("benchmarks"):
        _read(SourceSample(name, target=target, path=path), node)
        return
    if path is not None and not Path(path).exists() and not is_pattern(path):
        if fault := hub_fault(path, kind="datasets"):
            raise DataError(fault)
        return
    make(dict(node), "references", name).groups("test")


def _folder_fault(path: str | None) -> str | None:
    """Why a folder has no rows; None for one that may have some, and for other paths.

    The library that reads data sets says so too, but its import takes seconds.
    """
    if path is None or not os.path.isdir(path):
        return None
    folder = Path(path)
    if (folder / "reward_model.json").is_file() or (folder / "config.json").is_file():
        return f"'{path}' is the folder of a model and has no data files; give a file of rows, or a folder with some"
    # Pictures alone can be rows too, so any file counts.
    try:
        files = files_below(folder)
    except DataError as error:
        return str(error)
    if not files:
        return f"'{path}' is a folder without data files; give a file of rows ({known_rows()}), or a folder with some"
    return None


def _kind_hint(path: str | None) -> str:
    """What may be wrong with a file whose name has the suffix of another kind; it was read as JSON Lines."""
    if path is None or rows_kind(path) or not os.path.isfile(path):
        return ""
    return f". It was read as JSON Lines, because '{Path(path).suffix}' is none of {known_rows()}"


def _draw(sample: SourceSample, source: Source) -> None:
    from basereward.data.schema.group import SPLITS

    for split in SPLITS:
        groups = source.groups(split)
        # A slice, whose pictures are drawn when a group is accessed: that is left to the check of the model.
        sample.groups[split] = groups[: GENERATED_SAMPLE if split == "train" else 1]
        if split == "train":
            sample.generated = len(groups)


def _stream(sample: SourceSample, source: Any) -> None:
    """Read the first rows of every split that has a table of its own; of a small file also those that it holds out.

    Raises:
        DataError: a table has no rows, or its rows are malformed.
    """
    from basereward.data.schema.group import SPLITS

    sample.complete = True
    for split in SPLITS:
        own_table = split in source.tables
        # Rows that are held out of a large file: finding them would mean to read all of it.
        if not sample.complete and not own_table:
            continue
        number = _take(sample, source.stream(split), split)
        if own_table and split != "train" and not number:
            raise DataError(f"{source.tables[split].label} has no rows")
    if not sample.rows:
        raise DataError(f"{source.tables['train'].label} has no rows")
    report = source.columns_seen()
    sample.columns, sample.unread = dict(report.read), list(report.unread)


def _take(sample: SourceSample, stream: Iterator[Group | RejectedRow], split: Split) -> int:
    """Add the first rows of a split to the sample, and return their number."""
    from basereward.data.schema.group import RejectedRow

    rows = [_with_images(row, split) for row in islice(stream, SAMPLED)]
    sample.groups[split] = [row for row in rows if not isinstance(row, RejectedRow)]
    sample.rejected += [row for row in rows if isinstance(row, RejectedRow)]
    sample.complete = sample.complete and len(rows) < SAMPLED
    return len(rows)


def _with_images(row: Group | RejectedRow, split: Split) -> Group | RejectedRow:
    """The row, or its rejection when a file of its images does not exist; the files are opened by the encoder."""
    from basereward.data.schema.group import RejectedRow

    if isinstance(row, RejectedRow):
        return row
    for image in row.images:
        if isinstance(image, str | Path) and not os.path.exists(image):
            return RejectedRow(row.source, split, row.id, "image_missing", f"there is no file {image}")
    return row


def curation_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield a benchmark that cannot be read, and a judge that is not on this machine; MLflow is not asked for it.

    Args:
        recipe: of the run.

    >>> from basereward.recipe.schema import CurationRecipe, DataRecipe
    >>> recipe = Recipe(data=DataRecipe(curation=CurationRecipe(judge="no/such/folder")))
    >>> [key for key, message in curation_problems(recipe)]
    ['data.curation.judge']
    """
    for name, node in recipe.data.curation.against.items():
        try:
            _read_reference(name, node)
        except BaseRewardError as error:
            yield f"data.curation.against.{name}", str(error)
    judge = recipe.data.curation.judge
    if judge is None:
        return
    try:
        database = database_of(tracking_uri(None))
        if os.sep in judge or (database is not None and not database.exists()):
            resolve_model(judge)
    except BaseRewardError as error:
        yield "data.curation.judge", str(error)


def rejection_problems(
    recipe: Recipe, samples: Sequence[SourceSample], *, sampled: int | None = None
) -> Iterator[Problem]:
    """Yield a share of rejected rows above `data.max_lost`, and list the rejected rows in a file.

    Args:
        recipe: of the run.
        samples: of its sources.
        sampled: most rows of a sample, for the message; None: `SAMPLED`.

    >>> list(rejection_problems(Recipe(), []))
    []
    """
    rejected = [row for sample in samples for row in sample.rejected]
    if not rejected:
        return
    from basereward.data.schema.rejections import check_limit, write_rejections

    rows = {sample.name: sample.rows for sample in samples if sample.rows}
    list_file = rejections_file(recipe)
    write_rejections(list_file, rejected)
    try:
        check_limit(rejected, rows=rows, max_lost=recipe.data.max_lost, listed_in=list_file)
    except TooManyRowsLost as error:
        yield "data.max_lost", _of_sample([sample for sample in samples if sample.name in rows], sampled) + str(error)


def _of_sample(samples: Sequence[SourceSample], sampled: int | None) -> str:
    """The beginning of a message about rows of a sample, whose share is not that of the source; else empty."""
    if all(sample.complete for sample in samples):
        return ""
    return f"of a sample of at most {sampled or SAMPLED} rows: "


def mixture_problems(recipe: Recipe, samples: Sequence[SourceSample]) -> Iterator[Problem]:
    """Yield a mixture with nothing to train on, where the sizes of all sources are known.

    Args:
        recipe: of the run.
        samples: of its sources.

    >>> groups = {"train": [], "val": ["a group"]}
    >>> sample = SourceSample("mine", target="jsonl", read=True, complete=True, groups=groups)
    >>> [key for key, message in mixture_problems(Recipe(), [sample])]
    ['data.sources']
    """
    sizes: dict[str, int] = {}
    for sample in samples:
        size = sample.train_groups()
        # A stream is mixed by weights alone, and its size is never known.
        if size is None or recipe.data.streaming is not None:
            return
        sizes[sample.name] = size
    if not any(sizes.values()):
        yield "data.sources", _nothing_left(samples)
        return
    from basereward.data.mixing.mixture import Mixture

    mixture = recipe.data.mixture
    options: dict[str, Any] = {"limits": mixture.limits, "passes": mixture.passes, "stop": mixture.stop}
    try:
        Mixture(sizes, weights=mixture.weights or None, **options)
    except RecipeError as error:
        yield "data.mixture", str(error)


def _nothing_left(samples: Sequence[SourceSample]) -> str:
    held_out = sum(len(groups) for sample in samples for groups in sample.groups.values())
    rejected = sum(len(sample.rejected) for sample in samples)
    return (
        f"no row is left to train on: {held_out} are held out for validation and test, and {rejected} are rejected. "
        "Give more rows, or hold out fewer (`val` and `test`; `size` of a generated source)"
    )


def validation_problems(recipe: Recipe, held_out: Mapping[str, int | None]) -> Iterator[Problem]:
    """Yield a setting that needs validation rows, when there are none.

    Args:
        recipe: of the run.
        held_out: number of validation groups by source; None where it is unknown.

    >>> from basereward.recipe.schema import TrainerRecipe
    >>> recipe = Recipe(trainer=TrainerRecipe(monitor="val/mine/pair_accuracy"))
    >>> [key for key, message in validation_problems(recipe, {"mine": 0, "other": 40})]
    ['trainer.monitor']
    >>> list(validation_problems(recipe, {"mine": None, "other": 40}))
    []
    """
    monitor = recipe.trainer.monitor
    # A metric of one source needs rows of that source; a metric over all of them needs rows of any.
    watched = [name for name in held_out if monitor.startswith(f"val/{name}/")] or list(held_out)
    if any(held_out[name] != 0 for name in watched):
        return
    which = f"source '{watched[0]}' holds" if len(watched) < len(held_out) else "the sources hold"
    rows = f"{which} out no rows for validation. Set `val` of the sources (a share or a file; val_size if generated)"
    if recipe.trainer.early_stopping is not None:
        yield "trainer.early_stopping", f"it watches {monitor}, and {rows}, or set trainer.early_stopping=null"
    elif len(watched) < len(held_out):
        yield "trainer.monitor", f"{monitor} given, and {rows}, or watch another metric"


def rejections_file(recipe: Recipe, *, remove_earlier: bool = False) -> Path:
    """Return the file that lists rejected rows before there is a run.

    Args:
        recipe: of the run.
        remove_earlier: remove an earlier list.

    >>> rejections_file(Recipe(name="mine/small")).name
    'mine-small-....jsonl'
    """
    # The hash keeps the cells of a sweep, which have one name and may be checked at the same time, apart.
    name = f"{recipe.name.replace('/', '-')}-{recipe_sha256(recipe)[:8]}.jsonl"
    folder = cache_folder() / "lost"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / name
        if remove_earlier:
            set_aside(file)
            file.unlink(missing_ok=True)
    # The list is only for the user. A cache folder that cannot be written must not stop the run.
    except OSError:
        file = Path(tempfile.mkdtemp(prefix="basereward-lost-")) / name
    return file
