"""Finds errors that a training would raise, within seconds and without a model.

The machine and the folder of the runs are checked first. Of rows on this machine, the first `SAMPLED` of every source
are read. Generated rows, and data sets of the Hugging Face Hub, are not read.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basereward.errors import BaseRewardError, RecipeError, RunError
from basereward.io.files import cache_folder
from basereward.io.names import folder_fault
from basereward.recipe import Cell, Fault, Recipe, make, recipe_sha256
from basereward.recipe.fault import fold, format_faults
from basereward.runs.run_folder import runs_root
from basereward.runs.tracking.mlflow_store import tracking_uri

if TYPE_CHECKING:
    from basereward.data.encoding.encoder import Encoder
    from basereward.data.schema.group import Group, RejectedRow
    from basereward.data.sources import Source

Problem = tuple[str, str]
"""A key of the recipe, and what is wrong with its value."""

SAMPLED = 500
"""Rows of a source that are read: enough to find a wrong column, few enough for seconds."""
GENERATED = ("digits", "numbers", "digit_pairs")
"""Names of sources that generate their rows. Such rows have no errors, so they are not sampled."""


def cell_faults(cells: Sequence[Cell]) -> list[Fault]:
    """List the errors that the trainings of some cells would raise. Data that several cells read are read once.

    Args:
        cells: of an experiment.

    Returns:
        The faults; a fault of every cell is listed once, for the cell `*`.

    >>> from basereward.recipe.schema import DataRecipe
    >>> recipe = Recipe(data=DataRecipe(sources={"mine": {"_target_": "jsonl", "path": "no-such-file.jsonl"}}))
    >>> faults = cell_faults([Cell("lr=1", "lr=1", {}, recipe), Cell("lr=2", "lr=2", {}, recipe)])
    >>> [(fault.cell, fault.key) for fault in faults]
    [('*', 'data.sources.mine')]
    """
    data_problems_of: dict[str, list[Problem]] = {}
    faults = []
    for cell in cells:
        recipe = cell.recipe
        # Everything that `data_problems` reads of a recipe. The cells of a sweep usually share all of it, and reading
        # the rows again for every cell would take minutes.
        data_key = repr((recipe.data, recipe.model, recipe.batch.tokens, recipe.trainer.monitor))
        data_key += repr(recipe.trainer.early_stopping)
        if data_key not in data_problems_of:
            data_problems_of[data_key] = list(data_problems(recipe))
        problems = [
            *machine_problems(recipe),
            *runs_folder_problems(),
            *store_problems(recipe),
            *logger_problems(recipe),
        ]
        problems += backbone_problems(recipe)
        problems += data_problems_of[data_key]
        faults += [Fault(cell.name, key, message) for key, message in problems]
    return fold(faults, cells=[cell.name for cell in cells])


def check_ready(recipe: Recipe) -> None:
    """Check that this machine can run a recipe, before anything is read or written.

    Raises:
        RecipeError: the accelerator, the precision, the folder of the backbone or the package of a logger is missing,
            or the folder of the runs cannot be used.

    >>> check_ready(Recipe())
    """
    problems = [*machine_problems(recipe), *runs_folder_problems(), *backbone_problems(recipe)]
    problems += logger_problems(recipe)
    if problems:
        faults = [Fault("*", key, message) for key, message in problems]
        raise RecipeError("\n  ".join(["this machine cannot run the recipe:", *format_faults(faults)]), faults)


def machine_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield an accelerator or a precision that this machine does not have.

    Args:
        recipe: of the run.

    >>> from basereward.recipe.schema import TrainerRecipe
    >>> list(machine_problems(Recipe(trainer=TrainerRecipe(accelerator="cpu"))))
    []
    """
    accelerator = recipe.trainer.accelerator
    # These two exist everywhere. The other ones need torch, which takes seconds to import.
    if accelerator in ("auto", "cpu"):
        return
    devices = _gpu_kinds()
    usable = devices if accelerator == "gpu" else [name for name in devices if name == accelerator]
    if not usable:
        allowed = ", ".join(["auto", "cpu", *devices])
        if devices:
            allowed += ", gpu"
        yield "trainer.accelerator", f"{accelerator} given, and this machine has none. Allowed here: {allowed}"
    elif recipe.trainer.precision == "bf16-mixed" and not _has_bfloat16(usable[0]):
        yield "trainer.precision", "bf16-mixed given, and this GPU has no bfloat16. Allowed here: 32-true"


def _gpu_kinds() -> list[str]:
    """The kinds of GPU on this machine, by their names in torch and in the recipe."""
    import torch

    kinds = []
    if torch.cuda.is_available():
        kinds.append("cuda")
    if torch.backends.mps.is_available():
        kinds.append("mps")
    return kinds


def _has_bfloat16(device: str) -> bool:
    """Whether a kind of GPU computes in bfloat16. Torch can answer this for CUDA alone."""
    import torch

    return device != "cuda" or torch.cuda.is_bf16_supported()


def runs_folder_problems() -> Iterator[Problem]:
    """Yield a folder of runs that cannot be written to. The folder itself need not exist yet.

    >>> list(runs_folder_problems())
    []
    """
    root = runs_root()
    # The run folder is created with its parents, so the nearest existing folder decides.
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    if not existing.is_dir():
        yield "", f"the folder of the runs is {root}, and {existing} is a file. Move it, or set BASEREWARD_RUNS"
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield "", f"the folder of the runs is {root}, and {existing} cannot be written to. Set BASEREWARD_RUNS"


def store_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield an address at which MLflow has no store. No connection is made.

    Args:
        recipe: of the run.

    >>> from basereward.recipe.schema import TrackingRecipe
    >>> [key for key, message in store_problems(Recipe(tracking=TrackingRecipe(uri="htp://host")))]
    ['tracking.uri']
    """
    try:
        tracking_uri(recipe.tracking.uri)
    except RunError as error:
        yield "tracking.uri", str(error)


def logger_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield a logger of `tracking.also` whose package is not installed. The package is not imported.

    Args:
        recipe: of the run.

    >>> list(logger_problems(Recipe()))
    []
    """
    for name in recipe.tracking.also:
        # The names of the loggers are those of the packages, and of our extras.
        spec = importlib.util.find_spec(name)
        # Without an origin it is a folder of that name: W&B writes one into the working directory.
        if spec is None or spec.origin is None:
            yield "tracking.also", f"{name} given, and it is not installed: pip install 'basereward[{name}]'"


def backbone_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield a backbone in a folder that does not exist. An id of the Hugging Face Hub is not looked up.

    Args:
        recipe: of the run.

    >>> from basereward.recipe.schema import BackboneRecipe, ModelRecipe
    >>> recipe = Recipe(model=ModelRecipe(backbone=BackboneRecipe(path="./no-such-folder")))
    >>> [key for key, message in backbone_problems(recipe)]
    ['model.backbone.path']
    """
    path = recipe.model.backbone.path
    if path is not None and (fault := folder_fault(path)):
        yield "model.backbone.path", fault


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


def check_validation(recipe: Recipe, held_out: Mapping[str, int | None]) -> None:
    """Check that settings which need validation rows have some; see `validation_problems`.

    Args:
        recipe: of the run.
        held_out: number of validation groups by source.

    Raises:
        RecipeError: there are none.

    >>> check_validation(Recipe(), {"mine": 40})
    """
    faults = [Fault("*", key, message) for key, message in validation_problems(recipe, held_out)]
    if faults:
        raise RecipeError("\n".join(format_faults(faults)), faults)


def data_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield sources that cannot be read, and a share of rejected rows above `data.max_lost`.

    Args:
        recipe: of the run.

    >>> from basereward.recipe.schema import DataRecipe
    >>> recipe = Recipe(data=DataRecipe(sources={"mine": {"_target_": "jsonl", "path": "no-such-file.jsonl"}}))
    >>> [key for key, message in data_problems(recipe)]
    ['data.sources.mine']
    """
    held_out: dict[str, int | None] = {}
    samples: dict[str, list[Group | RejectedRow]] = {}
    for name, node in recipe.data.sources.items():
        held_out[name] = None
        if not _is_readable_here(node):
            continue
        try:
            source: Source = make(node, "sources", name)
            if node["_target_"] in GENERATED:
                held_out[name] = len(source.groups("val"))
                continue
            samples[name] = list(islice(_stream(source, "train"), SAMPLED))
            # In a larger file the first validation row may be far away, so the number stays unknown.
            if len(samples[name]) < SAMPLED:
                held_out[name] = len(list(islice(source.groups("val"), 1)))
        except BaseRewardError as error:
            yield f"data.sources.{name}", str(error)
    yield from validation_problems(recipe, held_out)
    if samples:
        yield from _rejection_problems(recipe, samples)


def _is_readable_here(node: Mapping[str, Any]) -> bool:
    """Whether the rows of a source can be read without a network and without code from outside this package."""
    target = str(node.get("_target_"))
    return target in (*GENERATED, "jsonl") or (target == "hub" and Path(str(node.get("path"))).exists())


def _stream(source: Any, split: str) -> Iterator[Group | RejectedRow]:
    rows: Iterator[Group | RejectedRow] = source.stream(split)
    return rows


def _rejection_problems(recipe: Recipe, samples: Mapping[str, Sequence[Group | RejectedRow]]) -> Iterator[Problem]:
    # Imported here: these load torch and transformers, which takes seconds.
    from basereward.data.schema.rejections import check_limit, write_rejections
    from basereward.errors import TooManyRowsLost

    try:
        encoder = _encoder(recipe)
        rejected: list[RejectedRow] = []
        for rows in samples.values():
            rejected += _rejected(rows, encoder=encoder, budget=recipe.batch.tokens)
        list_file = rejections_file(recipe)
        if rejected:
            write_rejections(list_file, rejected)
        counts = {name: len(rows) for name, rows in samples.items()}
        check_limit(rejected, rows=counts, max_lost=recipe.data.max_lost, listed_in=list_file)
    except TooManyRowsLost as error:
        all_read = all(len(rows) < SAMPLED for rows in samples.values())
        # A share of a sample is no share of the source; the message says which rows were counted.
        prefix = "" if all_read else f"of the first {SAMPLED} training rows of each source: "
        yield "data.max_lost", prefix + str(error)
    except BaseRewardError as error:
        yield "model.backbone", str(error)


def _encoder(recipe: Recipe) -> Encoder | None:
    """The encoder of the recipe; None when its files are not on this machine."""
    from basereward.model.families.processing import recipe_encoder
    from basereward.model.saving.made_checkpoint import backbone_path

    path = recipe.model.backbone.path
    if path is not None and not Path(path).is_dir():
        return None
    return recipe_encoder(recipe, path=backbone_path(recipe.model.backbone))


def _rejected(
    rows: Sequence[Group | RejectedRow], *, encoder: Encoder | None, budget: int | None
) -> Iterator[RejectedRow]:
    """Yield the rows that a training would reject."""
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
        except RowRejected as rejection:
            yield RejectedRow(row.source, "train", row.id, rejection.reason, rejection.detail)


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
            file.unlink(missing_ok=True)
    # The list is only for the user. A cache folder that cannot be written must not stop the run.
    except OSError:
        file = Path(tempfile.mkdtemp(prefix="basereward-lost-")) / name
    return file
