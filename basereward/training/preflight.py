"""What a training would refuse, found without a model and in seconds.

The machine and the folder of the runs are looked at first. Rows are read where they lie on this machine: the first
`SAMPLED` of every source. Rows that our own sources make, and data sets of the hub, are not read.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basereward.errors import BaseRewardError, RecipeError
from basereward.io.cache import cache_folder
from basereward.io.checkpoint_folder import folder_fault
from basereward.recipe import Cell, Fault, Recipe, make, recipe_sha256
from basereward.recipe.fault import fold, format_faults
from basereward.runs.run_folder import runs_root

if TYPE_CHECKING:
    from basereward.data.encoding.encoder import Encoder
    from basereward.data.schema.group import Group, RejectedRow
    from basereward.data.sources import Source

Problem = tuple[str, str]
"""A key of the recipe, and what is wrong with its value."""

SAMPLED = 500  # rows of a source that are read
MADE = ("digits", "numbers", "digit_pairs")  # sources that make their rows, so that no row of them is at fault


def cell_faults(cells: Sequence[Cell]) -> list[Fault]:
    """What the trainings of some cells would refuse; cells that read the same data share what is found."""
    known: dict[str, list[Problem]] = {}
    faults = []
    for cell in cells:
        key = repr((cell.recipe.data, cell.recipe.model, cell.recipe.batch.tokens, cell.recipe.trainer.monitor))
        key += repr(cell.recipe.trainer.early_stopping)
        if key not in known:
            known[key] = list(data_problems(cell.recipe))
        problems = [*machine_problems(cell.recipe), *place_problems(), *backbone_problems(cell.recipe), *known[key]]
        faults += [Fault(cell.name, at, message) for at, message in problems]
    return fold(faults, cells=[cell.name for cell in cells])


def check_ready(recipe: Recipe) -> None:
    """Refuses what this machine cannot do, before anything is read or written.

    Raises:
        RecipeError: the accelerator, the precision or the backbone's folder is not there, or the folder of the runs
            cannot be used.
    """
    problems = [*machine_problems(recipe), *place_problems(), *backbone_problems(recipe)]
    if problems:
        faults = [Fault("*", key, message) for key, message in problems]
        raise RecipeError("\n  ".join(["this machine cannot run the recipe:", *format_faults(faults)]), faults)


def machine_problems(recipe: Recipe) -> Iterator[Problem]:
    """An accelerator or a precision that this machine has not."""
    accelerator = recipe.trainer.accelerator
    if accelerator in ("auto", "cpu"):  # torch, which takes seconds to import, has nothing to say of these
        return
    import torch

    there = [name for name, found in (("cuda", torch.cuda.is_available()), ("mps", _has_mps())) if found]
    fits = there if accelerator == "gpu" else [name for name in there if name == accelerator]
    if not fits:
        found = ", ".join(["auto", "cpu", *there, *(["gpu"] if there else [])])
        yield "trainer.accelerator", f"{accelerator} given, and this machine has none. Allowed here: {found}"
    elif recipe.trainer.precision == "bf16-mixed" and fits[0] == "cuda" and not torch.cuda.is_bf16_supported():
        yield "trainer.precision", "bf16-mixed given, and this GPU has no bfloat16. Allowed here: 32-true"


def _has_mps() -> bool:
    import torch

    return torch.backends.mps.is_available()


def place_problems() -> Iterator[Problem]:
    """A folder of runs that cannot be written to."""
    root = runs_root()
    place = next(each for each in (root, *root.parents) if each.exists())
    if not place.is_dir():
        yield "", f"the folder of the runs is {root}, and {place} is a file. Move it, or set BASEREWARD_RUNS"
    elif not os.access(place, os.W_OK | os.X_OK):
        yield "", f"the folder of the runs is {root}, and {place} cannot be written to. Set BASEREWARD_RUNS"


def backbone_problems(recipe: Recipe) -> Iterator[Problem]:
    """A backbone in a folder that is not there."""
    path = recipe.model.backbone.path
    if path is not None and (fault := folder_fault(path)):
        yield "model.backbone.path", fault


def validation_problems(recipe: Recipe, held_out: Mapping[str, int | None]) -> Iterator[Problem]:
    """Decisions that need a validation, of which there are no rows.

    Args:
        held_out: validation groups of every source; None where the number is not known.
    """
    monitor = recipe.trainer.monitor
    sources = [name for name in held_out if monitor.startswith(f"val/{name}/")] or list(held_out)
    if any(held_out[name] != 0 for name in sources):
        return
    which = f"source '{sources[0]}' holds" if len(sources) < len(held_out) else "the sources hold"
    rows = f"{which} out no rows for validation. Give the sources `val` (a share or a file; val_size of made ones)"
    if recipe.trainer.early_stopping is not None:
        yield "trainer.early_stopping", f"it watches {monitor}, and {rows}, or set trainer.early_stopping=null"
    elif len(sources) < len(held_out):
        yield "trainer.monitor", f"{monitor} given, and {rows}, or watch another metric"


def check_validation(recipe: Recipe, held_out: Mapping[str, int | None]) -> None:
    """Refuses decisions that need a validation, of which there are no rows.

    Raises:
        RecipeError: of `validation_problems`.
    """
    faults = [Fault("*", key, message) for key, message in validation_problems(recipe, held_out)]
    if faults:
        raise RecipeError("\n".join(format_faults(faults)), faults)


def data_problems(recipe: Recipe) -> Iterator[Problem]:
    """Sources that cannot be read, and too many rows that would be lost."""
    held_out: dict[str, int | None] = {}
    samples: dict[str, list[Group | RejectedRow]] = {}
    for name, node in recipe.data.sources.items():
        held_out[name] = None
        if not _is_readable_here(node):
            continue
        try:
            source: Source = make(node, "sources", name)
            if node["_target_"] in MADE:
                held_out[name] = len(source.groups("val"))
                continue
            samples[name] = list(islice(_stream(source, "train"), SAMPLED))
            if len(samples[name]) < SAMPLED:  # else the end of a large file may be far
                held_out[name] = len(list(islice(source.groups("val"), 1)))
        except BaseRewardError as error:
            yield f"data.sources.{name}", str(error)
    yield from validation_problems(recipe, held_out)
    if samples:
        yield from _lost_problems(recipe, samples)


def _is_readable_here(node: Mapping[str, Any]) -> bool:
    """Whether rows can be had without a network and without code of others."""
    target = str(node.get("_target_"))
    return target in (*MADE, "jsonl") or (target == "hub" and Path(str(node.get("path"))).exists())


def _stream(source: Any, split: str) -> Iterator[Group | RejectedRow]:
    rows: Iterator[Group | RejectedRow] = source.stream(split)
    return rows


def _lost_problems(recipe: Recipe, samples: Mapping[str, Sequence[Group | RejectedRow]]) -> Iterator[Problem]:
    from basereward.data.schema.rejections import check_limit, write_lost
    from basereward.errors import TooManyRowsLost

    try:
        encoder = _encoder(recipe)
        lost = [row for rows in samples.values() for row in _lost(rows, encoder=encoder, budget=recipe.batch.tokens)]
        listed = lost_file(recipe)
        if lost:
            write_lost(listed, lost)
        counts = {name: len(rows) for name, rows in samples.items()}
        check_limit(lost, rows=counts, max_lost=recipe.data.max_lost, listed_in=listed)
    except TooManyRowsLost as error:
        whole = all(len(rows) < SAMPLED for rows in samples.values())
        yield "data.max_lost", ("" if whole else f"of the first {SAMPLED} training rows of each source: ") + str(error)
    except BaseRewardError as error:
        yield "model.backbone", str(error)


def _encoder(recipe: Recipe) -> Encoder | None:
    """The recipe's encoder; None where its files are not on this machine."""
    from basereward.model.families.processing import recipe_encoder
    from basereward.model.saving.made_checkpoint import backbone_path

    path = recipe.model.backbone.path
    if path is not None and not Path(path).is_dir():
        return None
    return recipe_encoder(recipe, path=backbone_path(recipe.model.backbone))


def _lost(rows: Sequence[Group | RejectedRow], *, encoder: Encoder | None, budget: int | None) -> Iterator[RejectedRow]:
    from basereward.data.schema.group import RejectedRow
    from basereward.data.schema.rejections import RowRejected
    from basereward.data.schema.validation import check_usable

    for row in rows:
        if isinstance(row, RejectedRow):
            yield row
            continue
        try:
            check_usable(row)
            size = encoder.measure(row, with_targets=True) if encoder is not None else None
            if size is not None and budget is not None and size.tokens > budget:
                raise RowRejected("above_batch_tokens", f"{size.tokens} tokens; batch.tokens allows {budget}")
        except RowRejected as loss:
            yield RejectedRow(row.source, "train", row.id, loss.reason, loss.detail)


def lost_file(recipe: Recipe, *, anew: bool = False) -> Path:
    """Where rows are listed that are lost before there is a run.

    Args:
        anew: whether an earlier list is removed.
    """
    name = f"{recipe.name.replace('/', '-')}-{recipe_sha256(recipe)[:8]}.jsonl"
    folder = cache_folder() / "lost"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / name
        if anew:
            file.unlink(missing_ok=True)
    except OSError:  # a cache that cannot be written costs time, not the run
        file = Path(tempfile.mkdtemp(prefix="basereward-lost-")) / name
    return file
