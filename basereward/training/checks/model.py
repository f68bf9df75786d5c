"""Checks the model of a recipe without its weights: encoder, lengths of rows, head, objective, memory and disk.

This imports torch and transformers. A backbone of the hub is looked at only if it is in the cache of the hub.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from basereward.data.batching.tree_batch import Layout
from basereward.data.encoding.encoder import Encoder, Size
from basereward.data.schema.group import Group, RejectedRow, Split
from basereward.data.schema.rejections import RowRejected
from basereward.errors import BaseRewardError, ModelError, format_bytes
from basereward.io.files import cache_folder
from basereward.model.attention.kernels import check_liger
from basereward.model.backbone import load_config, quiet_transformers
from basereward.model.cost.memory import Memory, PassTokens
from basereward.model.cost.meta_model import outline
from basereward.model.families.processing import recipe_encoder
from basereward.model.families.registry import find_family
from basereward.model.losses.contracts import build_loss
from basereward.model.pooling import Pooling
from basereward.model.reward_model import RewardModel, check_head_size
from basereward.model.saving.folder_checks import check_checkpoint, check_size
from basereward.model.saving.made_checkpoint import backbone_path
from basereward.model.saving.saved_model import kind_of
from basereward.recipe import Recipe
from basereward.recipe.checks.parallel import micro_batch_groups, num_devices
from basereward.recipe.checks.probing import trained_model
from basereward.recipe.checks.rollouts import learns_from_rollouts
from basereward.runs.run_folder import runs_root
from basereward.runs.tracking.mlflow_store import database_of, tracking_uri
from basereward.training.checks.machine import DISK, Problem, nearest_folder
from basereward.training.checks.rows import SourceSample, rejection_problems
from basereward.training.cost.rollouts import (
    PromptSize,
    largest_rollouts,
    modelled,
    prompt_size,
    uses_head,
    with_reference,
)
from basereward.training.cost.run_memory import device_memory, device_share, run_memory
from basereward.training.objectives.contracts import build_objective
from basereward.training.optimizer import check_kind, check_parts

FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Errors that a class of the user may raise on torch's meta device, where tensors have no values."""
ENCODED = 500
"""Rows of all sources that are encoded, evenly spread over those that were read."""
GIB = 2**30


@dataclass
class ModelFindings:
    """What was found out about the model of a recipe.

    Attributes:
        problems: what a training would refuse.
        warnings: what may stop it later.
        facts: what `check` reports: `devices`, `tokens` by source, `model`, `memory`, `disk`.
        held: the memory of the run on one device; None where it was not counted.

    >>> ModelFindings().problems
    []
    """

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    held: Memory | None = None


def check_model(recipe: Recipe, samples: Sequence[SourceSample], *, here: bool = True) -> ModelFindings:
    """Check everything about a recipe that needs torch or transformers.

    Args:
        recipe: whose cheap checks found nothing.
        samples: the first rows of its sources.
        here: whether the run is on this machine; the devices of others are not known.

    Returns:
        What was found. Nothing is written but a made checkpoint and the list of rejected rows.
    """
    found = ModelFindings()
    device = training_device(recipe) if here else None
    if device is not None:
        found.problems += device_problems(recipe)
        found.facts["devices"] = device_facts(recipe, device)
    if found.problems:
        return found
    try:
        built = _build(modelled(recipe))
    except BaseRewardError as error:
        found.problems.append(("model", str(error)))
        return found
    if isinstance(built, str):
        found.facts["model"] = {"missing": built}
        return found
    model, encoder = built
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    found.facts["model"] = {"weights": sum(p.numel() for p in model.parameters()), "trained": trained}
    largest = _encode(recipe, encoder, samples, found)
    if not found.problems:
        _count(recipe, model, largest, device, found)
    return found


def _build(recipe: Recipe) -> tuple[RewardModel, Encoder] | str:
    """The model without weights and the encoder, or why they cannot be built here although a training may.

    Raises:
        BaseRewardError: a training would refuse the recipe.
    """
    build_loss(recipe.loss)
    folder = local_backbone(recipe)
    if folder is None:
        return f"the files of {recipe.model.backbone.path} are not on this machine"
    in_cache = recipe.model.backbone.path is not None and not os.path.isdir(backbone_path(recipe.model.backbone))
    try:
        # The cache of the hub may have some of the files only; a training loads the others.
        model = _outline(recipe, folder, complete=not in_cache)
        encoder = recipe_encoder(recipe, path=folder)
    except BaseRewardError as error:
        if in_cache and isinstance(error, ModelError):
            return f"the files of {recipe.model.backbone.path} in the cache of the hub do not suffice ({error})"
        raise
    except FAILURES as error:
        # A class of the user may not be buildable without memory; an error of our own classes is a bug.
        if not _is_foreign(recipe):
            raise
        return f"head '{recipe.model.head['_target_']}' cannot be built without memory ({error})"
    _check_trained(recipe, model)
    if learns_from_rollouts(recipe.objective):
        encoder = encoder.without_videos()
    return model, encoder if uses_head(recipe) else encoder.with_branch_template(None)


def _is_foreign(recipe: Recipe) -> bool:
    """Whether the head is a class from outside this package."""
    return "." in str(recipe.model.head.get("_target_"))


def training_device(recipe: Recipe) -> torch.device:
    """Return the device that Lightning's trainer chooses.

    Args:
        recipe: whose accelerator this machine has.

    >>> from basereward.recipe.schema import TrainerRecipe
    >>> training_device(Recipe(trainer=TrainerRecipe(accelerator="cpu")))
    device(type='cpu')
    """
    accelerator = recipe.trainer.accelerator
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda")
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def device_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield an accelerator, a precision, an optimizer or kernels that this machine cannot run.

    Args:
        recipe: of the run.

    >>> list(device_problems(Recipe()))
    []
    """
    accelerator = recipe.trainer.accelerator
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    has["gpu"] = any(has.values())
    if not has.get(accelerator, True):
        allowed = ", ".join(["auto", "cpu", *(name for name, available in has.items() if available)])
        yield "trainer.accelerator", f"{accelerator} given, and this machine has none. Allowed here: {allowed}"
        return
    device = training_device(recipe).type
    yield from _missing_devices(recipe, device)
    if recipe.trainer.precision == "bf16-mixed" and device == "cuda" and not torch.cuda.is_bf16_supported():
        yield "trainer.precision", "bf16-mixed given, and this GPU has no bfloat16. Allowed here: 32-true"
    yield from _failures("optimizer.kind", lambda: check_kind(recipe.optimizer.kind, devices=[device]))
    if recipe.model.backbone.kernels == "liger":
        yield from _failures("model.backbone.kernels", check_liger)


def _missing_devices(recipe: Recipe, kind: str) -> Iterator[Problem]:
    """Yield a number of devices that this machine does not have. A CPU takes any number of processes."""
    available = {"cuda": torch.cuda.device_count(), "mps": 1}.get(kind)
    given = num_devices(recipe)
    if available is not None and given > available:
        yield "trainer.devices", f"{given} given, and this machine has {available}. Allowed here: 1 to {available}"


def _failures(key: str, check: Callable[[], object]) -> Iterator[Problem]:
    """Yield the error of a check as a problem of a key."""
    try:
        check()
    except BaseRewardError as error:
        yield key, str(error).removeprefix(f"{key}: ")


def device_facts(recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """Return the kind, the name, the number and the memory in bytes of the devices of a run, and its precision.

    Args:
        recipe: of the run.
        device: that it is trained on.

    >>> device_facts(Recipe(), torch.device("cpu"))["count"]
    1
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores"
    facts = {"kind": device.type, "name": name, "count": num_devices(recipe), "precision": recipe.trainer.precision}
    return {**facts, "memory": device_memory(device)}


def local_backbone(recipe: Recipe) -> str | None:
    """Return the folder of a recipe's backbone, which may be in the cache of the hub; None when it is not here.

    Args:
        recipe: of the run.

    >>> from basereward.recipe.schema import BackboneRecipe, ModelRecipe
    >>> local_backbone(Recipe(model=ModelRecipe(backbone=BackboneRecipe(path="no-one/nothing")))) is None
    True
    """
    backbone = recipe.model.backbone
    path = backbone_path(backbone)
    if os.path.isdir(path):
        return path
    import huggingface_hub

    try:
        file = huggingface_hub.try_to_load_from_cache(path, "config.json", revision=backbone.revision)
    except ValueError:
        return None
    return str(Path(file).parent) if isinstance(file, str) else None


class _Measured(NamedTuple):
    """An encoded row: its source, its group and its size."""

    source: str
    group: Group
    size: Size


def _encode(recipe: Recipe, encoder: Encoder, samples: Sequence[SourceSample], found: ModelFindings) -> PassTokens:
    """Encode a part of the sampled rows, and find those that are too long. Returns the size of the largest pass."""
    groups = list(_groups(samples))
    stride = max(1, -(-len(groups) // ENCODED))
    measured: list[_Measured] = []
    rejected: list[RejectedRow] = []
    for source, split, group in groups[::stride]:
        try:
            measured.append(_Measured(source, group, _size(recipe, encoder, group)))
        except RowRejected as rejection:
            rejected.append(RejectedRow(source, split, group.id, rejection.reason, rejection.detail))
    read = [sample for sample in samples if sample.read]
    found.facts["tokens"] = {sample.name: _lengths(sample.name, measured, rejected) for sample in read}
    if rejected or any(sample.rejected for sample in read):
        encoded = [_encoded_only(sample, measured, rejected, stride=stride) for sample in read]
        found.problems += rejection_problems(recipe, encoded, sampled=ENCODED)
    return _largest(recipe, encoder, measured)


def _groups(samples: Sequence[SourceSample]) -> Iterator[tuple[str, Split, Group]]:
    """All usable rows with their source and split."""
    for sample in samples:
        for split, of_split in sample.groups.items():
            for group in of_split:
                yield sample.name, split, group


def _size(recipe: Recipe, encoder: Encoder, group: Group) -> Size:
    """The size of a group.

    Raises:
        RowRejected: a training would reject it.
    """
    # Rollouts take the place of target texts.
    size = encoder.measure(group, with_targets=not learns_from_rollouts(recipe.objective))
    budget = recipe.batch.tokens
    if budget is not None and size.tokens > budget:
        raise RowRejected("above_batch_tokens", f"{size.tokens} tokens; batch.tokens allows {budget}")
    return size


def _encoded_only(
    sample: SourceSample, measured: Sequence[_Measured], rejected: Sequence[RejectedRow], *, stride: int
) -> SourceSample:
    """A sample of the rows that were encoded, and of those that were rejected earlier in the same proportion.

    Both kinds of rejection count against one limit.
    """
    own = [row for row in rejected if row.source == sample.name]
    return SourceSample(
        sample.name,
        target=sample.target,
        read=True,
        complete=sample.complete and stride == 1,
        groups={"train": [row.group for row in measured if row.source == sample.name]},
        rejected=[*sample.rejected[::stride], *own],
    )


def _lengths(source: str, measured: Sequence[_Measured], rejected: Sequence[RejectedRow]) -> dict[str, Any]:
    """What `check` reports about the encoded rows of a source; tokens are those of a prompt with all responses."""
    tokens = sorted(row.size.tokens for row in measured if row.source == source)
    reasons = Counter(row.reason for row in rejected if row.source == source)
    median, longest = (tokens[len(tokens) // 2], tokens[-1]) if tokens else (0, 0)
    encoded = len(tokens) + reasons.total()
    return {"encoded": encoded, "median": median, "longest": longest, "rejected": dict(reasons)}


def _largest(recipe: Recipe, encoder: Encoder, measured: Sequence[_Measured]) -> PassTokens:
    """The size of a forward pass of the largest sampled groups."""
    if learns_from_rollouts(recipe.objective):
        return _largest_rollouts(recipe, encoder, measured)
    layout, pooling = recipe.batch.layout, Pooling(recipe.model.pooling)
    rows = sorted(measured, key=lambda row: _tokens(row.size, layout))
    if not rows:
        return PassTokens(tokens=recipe.batch.tokens or 1, pooled=1)
    number = micro_batch_groups(recipe)
    if recipe.batch.tokens is not None:
        number = max(1, recipe.batch.tokens // _tokens(rows[-1].size, layout))
    largest = rows[-number:]
    # A pass of more groups than were sampled has some of their size more.
    factor = number / len(largest)
    tokens = sum(_tokens(row.size, layout) for row in largest)
    patches = sum(sum(encoder.images.measure(row.group.all_images)) for row in largest if row.group.has_images)
    pooled = 0
    for row in largest:
        pooled += sum(len(pooling.read(branch)) for branch in row.size.branches)
    return PassTokens(round(tokens * factor), round(pooled * factor), round(patches * factor))


def _largest_rollouts(recipe: Recipe, encoder: Encoder, measured: Sequence[_Measured]) -> PassTokens:
    prompts: list[PromptSize] = []
    for row in measured:
        patches = sum(encoder.images.measure(row.group.images)) if row.group.images else 0
        prompts.append(prompt_size(row.size, patches=patches, of_judge=uses_head(recipe)))
    return largest_rollouts(recipe, prompts)


def _tokens(size: Size, layout: Layout) -> int:
    return size.tokens if layout == "tree" else sum(size.prefix + branch for branch in size.branches)


def _count(
    recipe: Recipe, model: RewardModel, largest: PassTokens, device: torch.device | None, found: ModelFindings
) -> None:
    """Count the memory of a model without weights, and what a run of it writes; compared where there is a device."""
    try:
        held = run_memory(recipe, model, largest)
    except ModelError as error:
        # Layers that the count does not know can be trained all the same.
        found.facts["memory"] = {"missing": str(error)}
        return
    held = with_reference(recipe, held)
    found.held = held
    if device is not None:
        _compare_memory(device_share(recipe, held, device), device, found)
    needed = disk_needs(recipe, held, model)
    found.facts["disk"] = needed
    found.problems += disk_problems(needed, recipe.tracking.uri)


def _outline(recipe: Recipe, folder: str, *, complete: bool) -> RewardModel:
    """The model on torch's meta device.

    Raises:
        BaseRewardError: files of the checkpoint are missing or damaged, or `build_model` would refuse the recipe.
    """
    config = load_config(folder, trust_remote_code=recipe.model.backbone.trust_remote_code)
    if complete:
        with quiet_transformers():
            check_size(config, check_checkpoint(folder), path=folder)
    check_head_size(recipe.model.head, hidden_size=config.get_text_config().hidden_size)
    return outline(trained_model(recipe), path=folder)


def _check_trained(recipe: Recipe, model: RewardModel) -> None:
    """
    Raises:
        BaseRewardError: nothing is trained, a part with its own learning rate is not, or the objective does not fit.
    """
    objective = build_objective(recipe.objective, loss=build_loss(recipe.loss), head=model.head)
    parts = model.parts()
    if own := list(objective.named_parameters()):
        parts["loss"] = own
    check_parts(parts, recipe.optimizer.lr_by_part)
    if recipe.model.backbone.kernels == "liger":
        config = model.backbone.transformer.config
        check_liger(find_family(config).decoder_type(config))


def _compare_memory(held: Memory, device: torch.device, found: ModelFindings) -> None:
    """Compare the memory of a run with that of the device: what is counted must fit, what is estimated may not."""
    available = device_memory(device)
    counted = held.state
    found.facts["memory"] = {"counted": counted, "peak": held.peak, "available": available}
    remedy = (
        "Train adapters (model.lora.rank=64), quantize (model.backbone.quantization=nf4), freeze parts, or take a "
        "smaller backbone or a larger GPU"
    )
    of = "of the GPU" if device.type == "cuda" else "of this machine"
    if counted > available:
        found.problems.append(("model", (
            f"weights, gradients and the moments of AdamW take {format_bytes(counted)} by count, and the memory {of} "
            f"is {format_bytes(available)}. {remedy}"
        )))  # fmt: skip
    elif held.peak > available:
        found.warnings.append(("batch", (
            f"about {format_bytes(held.peak)} are needed with the activations of the largest sampled rows, and the "
            f"memory {of} is {format_bytes(available)}. Lower batch.groups_per_forward or set batch.tokens, and set "
            "model.backbone.gradient_checkpointing=true"
        )))  # fmt: skip


def disk_needs(recipe: Recipe, held: Memory, model: RewardModel) -> dict[str, int]:
    """Return the bytes that a run will write, by the folder: `runs`, `mlflow` and `cache`.

    The last state has the trained weights and the moments; the best weights and the saved model have no moments. While
    a file is replaced, the old and the new one exist. MLflow gets a copy of the saved model.

    Args:
        recipe: of the run.
        held: its memory.
        model: without weights.
    """
    best, last = held.gradients, held.gradients + held.moments + held.masters
    lora = recipe.model.lora
    whole = kind_of(model) == "full" or (lora is not None and lora.merge)
    saved = held.weights if whole else best
    cache = recipe.data.encoding.feature_cache or 0.0
    return {"runs": last + best + max(last, best, saved), "mlflow": saved, "cache": round(cache * GIB)}


def disk_problems(needed: Mapping[str, int], uri: str | None) -> Iterator[Problem]:
    """Yield a disk that has less free space than a run will write. Folders on one disk share its space.

    Args:
        needed: bytes by folder, of `disk_needs`.
        uri: of MLflow's store, as the recipe has it.

    >>> list(disk_problems({"runs": 1, "mlflow": 1, "cache": 0}, "sqlite:////tmp/mlflow.db"))
    []
    """
    folders = {"runs": runs_root(), "cache": cache_folder()}
    if (database := database_of(tracking_uri(uri))) is not None:
        folders["mlflow"] = database
    disks: dict[int, list[str]] = {}
    for name, folder in folders.items():
        disks.setdefault(nearest_folder(folder).stat().st_dev, []).append(name)
    for names in disks.values():
        total, free = sum(needed[name] for name in names), shutil.disk_usage(nearest_folder(folders[names[0]])).free
        if total > free:
            parts = ", ".join(f"{name} {format_bytes(needed[name])}" for name in names if needed[name])
            yield (
                DISK,
                (
                    f"the run will write {format_bytes(total)} ({parts}), and {format_bytes(free)} are free at "
                    f"{folders[names[0]]}. Make room, set BASEREWARD_RUNS or BASEREWARD_CACHE to another disk, or "
                    "train less (model.lora.rank=64)"
                ),
            )
