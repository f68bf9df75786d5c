"""Values that have the right type and are still wrong: numbers out of range, and keys that exclude each other.

The ranges stand here and not in the type hints of the schema, because OmegaConf, which builds the schema's classes,
does not read `Annotated`. Arguments of a `_target_` have their ranges in their hints; see
`basereward.recipe.checks.hints`.

Each function `..._problems` yields pairs of a dotted key and a message. `CHECKS` lists them in the order of the output.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from basereward.errors import unknown
from basereward.io.names import clean_name, name_problem
from basereward.io.secrets import has_secret_query, userinfo_of
from basereward.recipe.checks.generative_heads import pooling_problems, sampling_problems, vote_problems
from basereward.recipe.checks.parallel import batch_problems, strategy_problems
from basereward.recipe.checks.probing import PARTS, feature_cache_problems, probe_problems, trained_model
from basereward.recipe.checks.rollouts import learns_from_rollouts, monitored_rollouts, rollout_problems
from basereward.recipe.schema import CurationRecipe, Recipe

Problems: TypeAlias = Iterator[tuple[str, str]]

DEFAULT_MONITOR = "val/pair_accuracy"
MONITORED = ("pair_accuracy", "mean_margin")
"""Metrics that can choose the best checkpoint: of both, a larger value is better."""
LARGEST_SEED = 2**32 - 1
"""The largest seed that numpy accepts; torch accepts larger ones."""

# The tables below list keys by the range of their numbers. A key may hold one number, several, or one for each name.

POSITIVE = (
    "batch.groups",
    "batch.groups_per_forward",
    "batch.tokens",
    "data.encoding.feature_cache",
    "data.encoding.max_pixels",
    "data.encoding.max_tokens",
    "data.encoding.min_pixels",
    "data.mixture.limits",
    "data.mixture.passes",
    "data.prefetch",
    "data.streaming.buffer",
    "data.streaming.held_out",
    "model.backbone.checkpoint_layers",
    "model.lora.alpha",
    "model.lora.rank",
    "optimizer.eps",
    "optimizer.lr",
    "optimizer.lr_by_part",
    "trainer.checkpoint_every",
    "trainer.devices",
    "trainer.early_stopping.patience",
    "trainer.epochs",
    "trainer.log_every",
    "trainer.nodes",
    "trainer.steps",
    "trainer.validations",
)
NOT_NEGATIVE = (
    "data.mixture.weights",
    "data.workers",
    "optimizer.weight_decay",
    "trainer.clip",
    "trainer.early_stopping.min_delta",
)
# Larger than any use, and small enough that memory and process table are not exhausted before an error is raised.
AT_MOST = {
    "batch.groups": 1_000_000,
    "batch.groups_per_forward": 100_000,
    "data.prefetch": 1_000,
    "data.streaming.buffer": 10_000_000,
    "data.streaming.held_out": 10_000_000,
    "data.workers": 512,
    "model.lora.rank": 8_192,
    "trainer.devices": 1_024,
    "trainer.epochs": 1_000_000,
    "trainer.nodes": 10_000,
    "trainer.steps": 1_000_000_000,
    "trainer.validations": 100_000,
}
SHARES = ("data.max_lost", "schedule.final", "schedule.warmup")
SHARES_BELOW_ONE = ("model.lora.dropout", "optimizer.betas")
STREAMED = ("hub", "jsonl")
"""Names of sources that can be read in order without an index of their rows."""


def range_problems(recipe: Recipe) -> list[tuple[str, str]]:
    """Everything that is wrong with a recipe whose types are right.

    Returns:
        Pairs of a dotted key and a message.

    >>> recipe = Recipe(data=dataclasses.replace(Recipe().data, max_lost=2.0))
    >>> dict(range_problems(recipe))["data.max_lost"]
    'must be from 0 to 1; 2.0 given'
    """
    problems: list[tuple[str, str]] = []
    for check in CHECKS:
        problems += check(recipe)
    return problems


def bound_problems(recipe: Recipe) -> Problems:
    """Numbers out of their ranges. NaN is out of every range, since each comparison with it is false.

    >>> list(bound_problems(Recipe(trainer=dataclasses.replace(Recipe().trainer, clip=-1.0))))
    [('trainer.clip', 'must be at least 0; -1.0 given')]
    """
    yield from _numbers_outside(recipe, POSITIVE, lambda number: 0 < number < math.inf, "above 0")
    yield from _numbers_outside(recipe, NOT_NEGATIVE, lambda number: 0 <= number < math.inf, "at least 0")
    for key, limit in AT_MOST.items():
        for full_key, number in _numbers_at(recipe, key):
            if number > limit:
                yield full_key, f"must be at most {limit:,}; {number} given"
    yield from _numbers_outside(recipe, SHARES, lambda number: 0 <= number <= 1, "from 0 to 1")
    yield from _numbers_outside(recipe, SHARES_BELOW_ONE, lambda number: 0 <= number < 1, "from 0 to below 1")


def seed_problems(recipe: Recipe) -> Problems:
    """Seeds that numpy or torch would refuse.

    >>> list(seed_problems(Recipe(seeds=dataclasses.replace(Recipe().seeds, init=-1))))
    [('seeds.init', 'a seed is from 0 to 4294967295; -1 given')]
    """
    for name, seed in dataclasses.asdict(recipe.seeds).items():
        if not 0 <= seed <= LARGEST_SEED:
            yield f"seeds.{name}", f"a seed is from 0 to {LARGEST_SEED}; {seed} given"


def backbone_problems(recipe: Recipe) -> Problems:
    """No backbone, or two of them.

    >>> [key for key, message in backbone_problems(Recipe())]
    ['model.backbone']
    """
    path, make = recipe.model.backbone.path, recipe.model.backbone.make
    if not path and make is None:
        yield "model.backbone", "one of `path` (a hub id or a folder) and `make` is needed; neither is given"
    if path and make is not None:
        yield "model.backbone", f"only one of `path` ('{path}') and `make` is allowed; set the other to null"
    if not path and recipe.model.backbone.revision is not None:
        yield "model.backbone.revision", "is the revision of a hub repository, and `path` names none"


def source_name_problems(recipe: Recipe) -> Problems:
    """Sources whose metrics would have the same name, because MLflow forbids some characters.

    >>> recipe = Recipe(data=dataclasses.replace(Recipe().data, sources={"a=b": {}, "a(b": {}}))
    >>> [key for key, message in source_name_problems(recipe)]
    ['data.sources.a(b']
    """
    source_of: dict[str, str] = {}
    for name in recipe.data.sources:
        metric = clean_name(f"val/{name}/pair_accuracy")
        if metric in source_of:
            other = source_of[metric]
            yield f"data.sources.{name}", f"its metrics are called {metric}, as those of '{other}'; rename one"
        # The first source keeps the name, so that a third one is compared with it too.
        source_of.setdefault(metric, name)


def part_problems(recipe: Recipe) -> Problems:
    """Unknown parts of the backbone, and learning rates of parts that are not trained.

    >>> recipe = Recipe(optimizer=dataclasses.replace(Recipe().optimizer, lr_by_part={"visoin": 1e-5}))
    >>> [message for key, message in part_problems(recipe)]
    ["unknown part 'visoin'; did you mean 'vision'? Allowed: head, language, loss, merger, vision."]
    """
    lora = recipe.model.lora
    yield from _unknown_names("model.backbone.freeze", recipe.model.backbone.freeze, PARTS, "part")
    # Head and loss are no parts of the backbone, and have learning rates of their own all the same.
    yield from _unknown_names("optimizer.lr_by_part", recipe.optimizer.lr_by_part, (*PARTS, "head", "loss"), "part")
    if lora is not None:
        yield from _unknown_names("model.lora.parts", lora.parts, PARTS, "part")
        if not lora.parts:
            yield "model.lora.parts", f"at least one of {', '.join(PARTS)} is needed; none given"
    if lora is None:
        frozen, reason = set(trained_model(recipe).backbone.freeze), "model.backbone.freeze names it"
    else:
        frozen, reason = set(PARTS).difference(lora.parts), "model.lora.parts leaves it out"
    if recipe.probe:
        reason = "probe freezes it"
    # A learning rate without effect is often a misunderstanding of what is trained, so it is no warning but a fault.
    for part in sorted(frozen.intersection(recipe.optimizer.lr_by_part)):
        message = f"the part is not trained, so its learning rate has no effect: {reason}"
        yield f"optimizer.lr_by_part.{part}", message


def source_problems(recipe: Recipe) -> Problems:
    """No source, options of unknown sources, and weights of only some sources.

    >>> [key for key, message in source_problems(Recipe())]
    ['data.sources']
    """
    names, mixture = recipe.data.sources, recipe.data.mixture
    if not names:
        yield "data.sources", "at least one source is needed, as in {digits: {include: sources/digits}}"
        return
    yield from _unknown_names("data.mixture.weights", mixture.weights, names, "source")
    yield from _unknown_names("data.mixture.limits", mixture.limits, names, "source")
    yield from _unknown_names("data.mixture.passes", mixture.passes, names, "source")
    if mixture.weights and mixture.passes:
        yield "data.mixture.passes", "weights already define how often a source is used; give one of the two"
    if mixture.weights and not any(mixture.weights.values()):
        yield "data.mixture.weights", "at least one weight must be above 0; all are 0"
    unweighted = [name for name in names if name not in mixture.weights]
    if mixture.weights and unweighted:
        yield "data.mixture.weights", f"either all sources have a weight or none; missing: {', '.join(unweighted)}"


def pixel_problems(recipe: Recipe) -> Problems:
    """An empty range of pixels.

    >>> encoding = dataclasses.replace(Recipe().data.encoding, min_pixels=200, max_pixels=100)
    >>> list(pixel_problems(Recipe(data=dataclasses.replace(Recipe().data, encoding=encoding))))
    [('data.encoding.min_pixels', '200 is above max_pixels, 100')]
    """
    low, high = recipe.data.encoding.min_pixels, recipe.data.encoding.max_pixels
    if low is not None and high is not None and low > high:
        yield "data.encoding.min_pixels", f"{low} is above max_pixels, {high}"


def curation_problems(recipe: Recipe) -> Problems:
    """Thresholds out of range. Below a similarity of 0.7 the search for duplicates would miss too many pairs.

    >>> recipe = Recipe(data=dataclasses.replace(Recipe().data, curation=CurationRecipe(near=0.5)))
    >>> list(curation_problems(recipe))
    [('data.curation.near', 'must be from 0.7 to 1; 0.5 given')]
    """
    near, drop = recipe.data.curation.near, recipe.data.curation.drop
    if near is not None and not 0.7 <= near <= 1:
        yield "data.curation.near", f"must be from 0.7 to 1; {near} given"
    # Written this way round, NaN is a fault too.
    if not drop >= 0:
        yield "data.curation.drop", f"must be at least 0; {drop} given"


def streaming_problems(recipe: Recipe) -> Problems:
    """Keys that need the size of a source or the lengths of its rows, which a stream does not have in advance.

    >>> list(streaming_problems(Recipe()))  # nothing is streamed
    []
    """
    if recipe.data.streaming is None:
        return
    yield from _unstreamed(recipe)
    if recipe.trainer.steps is None:
        yield "trainer.steps", "data.streaming does not know how long an epoch is; give the number of steps"
    if recipe.batch.tokens is not None or recipe.batch.modality != "mixed":
        message = "data.streaming does not know lengths in advance: leave out batch.tokens and batch.modality"
        yield "batch", message
    mixture = recipe.data.mixture
    if recipe.data.curation != CurationRecipe():
        yield "data.curation", "data.streaming reads every group once and cannot compare groups; leave one of them out"
    if mixture.limits or mixture.passes:
        yield "data.mixture", "data.streaming mixes by weights alone: leave out limits and passes"
    if len(recipe.data.sources) > 1 and not mixture.weights:
        yield "data.mixture.weights", "streamed sources are mixed by weight; give one to each"


def _unstreamed(recipe: Recipe) -> Problems:
    """Sources that cannot be read in order. A class of a user's own may have a stream."""
    for name, node in recipe.data.sources.items():
        target = str(node.get("_target_"))
        if target not in STREAMED and "." not in target:
            message = f"'{target}' cannot be streamed; {' and '.join(STREAMED)} can. Remove data.streaming"
            yield f"data.sources.{name}", message


def beta_problems(recipe: Recipe) -> Problems:
    """A number of betas other than the two of AdamW.

    >>> list(beta_problems(Recipe(optimizer=dataclasses.replace(Recipe().optimizer, betas=[0.9]))))
    [('optimizer.betas', 'two numbers are needed; 1 given')]
    """
    if len(recipe.optimizer.betas) != 2:
        yield "optimizer.betas", f"two numbers are needed; {len(recipe.optimizer.betas)} given"


def efficiency_problems(recipe: Recipe) -> Problems:
    """Options for speed and memory that have no effect, or need a GPU that the accelerator excludes.

    >>> recipe = Recipe(data=dataclasses.replace(Recipe().data, prefetch=4))
    >>> list(efficiency_problems(recipe))
    [('data.prefetch', 'has no effect without worker processes; set data.workers above 0')]
    """
    backbone, accelerator = recipe.model.backbone, recipe.trainer.accelerator
    if backbone.checkpoint_layers is not None and not backbone.gradient_checkpointing:
        message = "has no effect without gradient_checkpointing; set model.backbone.gradient_checkpointing=true"
        yield "model.backbone.checkpoint_layers", message
    yield from _bfloat16_problems(recipe)
    if recipe.data.prefetch is not None and not recipe.data.workers:
        yield "data.prefetch", "has no effect without worker processes; set data.workers above 0"
    if accelerator not in ("cpu", "mps"):
        return
    if recipe.optimizer.kind.startswith("paged_"):
        message = f"'{recipe.optimizer.kind}' needs an NVIDIA GPU, and trainer.accelerator is {accelerator}"
        yield "optimizer.kind", f"{message}. Allowed there: adamw, adamw_8bit."
    if backbone.kernels == "liger":
        message = f"'liger' needs an NVIDIA GPU, and trainer.accelerator is {accelerator}"
        yield "model.backbone.kernels", f"{message}. Allowed there: auto, none."


def _bfloat16_problems(recipe: Recipe) -> Problems:
    """An update of weights in bfloat16 where none is trained, or with an optimizer that does not have it."""
    update, backbone = recipe.optimizer.bfloat16, recipe.model.backbone
    if update == "nearest":
        return
    if recipe.optimizer.kind != "adamw":
        message = f"'{update}' needs optimizer.kind=adamw; {recipe.optimizer.kind} given"
        yield "optimizer.bfloat16", f"{message}. Allowed with it: nearest."
    reason = None
    if recipe.probe or recipe.model.lora is not None or backbone.quantization is not None:
        reason = "the weights of the backbone are frozen, and adapters and head are in float32"
    elif backbone.dtype != "bfloat16":
        reason = f"model.backbone.dtype is {backbone.dtype}"
    if reason is not None:
        message = f"'{update}' has no effect: {reason}. Set it to nearest, or train a backbone in bfloat16"
        yield "optimizer.bfloat16", message


def monitor_problems(recipe: Recipe) -> Problems:
    """A monitor that is neither `val/<metric>` nor `val/<source>/<metric>` with a metric of `MONITORED`, or in
    reinforcement learning one that the reward measures.

    >>> recipe = Recipe(trainer=dataclasses.replace(Recipe().trainer, monitor="val/loss"))
    >>> [key for key, message in monitor_problems(recipe)]
    ['trainer.monitor']
    """
    monitor = recipe.trainer.monitor
    metrics: tuple[str, ...] = MONITORED
    if learns_from_rollouts(recipe.objective):
        # The default stands for the first measure of a reward that has no other.
        if monitor == DEFAULT_MONITOR:
            return
        metrics = monitored_rollouts(recipe)
    prefix, *source_parts, metric = monitor.split("/")
    if prefix != "val" or metric not in metrics or len(source_parts) > 1:
        yield "trainer.monitor", unknown("metric", monitor, _monitors(metrics, recipe.data.sources))
    elif source_parts:
        yield from _unknown_names("trainer.monitor", source_parts, recipe.data.sources, "source")


def _monitors(metrics: Iterable[str], sources: Iterable[str]) -> list[str]:
    """The names of metrics of validation, over all sources and of each."""
    names = list(metrics)
    allowed = [f"val/{name}" for name in names]
    for source in sources:
        allowed += [f"val/{source}/{name}" for name in names]
    return allowed


def name_problems(recipe: Recipe) -> Problems:
    """Names that are not allowed for the files, folders and metrics that get them.

    >>> [key for key, message in name_problems(Recipe(name=".."))]
    ['name']
    """
    names = {"name": recipe.name, "tracking.experiment": recipe.tracking.experiment}
    names |= {f"data.sources.{name}": name for name in recipe.data.sources}
    for key, name in names.items():
        if name is not None and (problem := name_problem(name, slashes=True)):
            yield key, problem


def tracking_problems(recipe: Recipe) -> Problems:
    """An address with a secret: a recipe is saved with its run and its model, and sent to MLflow.

    >>> recipe = Recipe(tracking=dataclasses.replace(Recipe().tracking, uri="http://me:secret@host"))
    >>> [key for key, message in tracking_problems(recipe)]
    ['tracking.uri']
    """
    uri = recipe.tracking.uri
    if uri is not None and (userinfo_of(uri) or has_secret_query(uri)):
        yield (
            "tracking.uri",
            "contains a user, a password or another secret, and a recipe is saved with every run and model. Leave it "
            "out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN, or "
            "MLFLOW_TRACKING_URI with user and password",
        )


CHECKS: tuple[Callable[[Recipe], Problems], ...] = (
    bound_problems,
    source_name_problems,
    seed_problems,
    backbone_problems,
    part_problems,
    source_problems,
    pixel_problems,
    feature_cache_problems,
    pooling_problems,
    sampling_problems,
    vote_problems,
    probe_problems,
    batch_problems,
    strategy_problems,
    curation_problems,
    streaming_problems,
    rollout_problems,
    beta_problems,
    efficiency_problems,
    monitor_problems,
    name_problems,
    tracking_problems,
)


def _numbers_outside(
    recipe: Recipe, keys: Iterable[str], is_inside: Callable[[float], bool], description: str
) -> Problems:
    for key in keys:
        for full_key, number in _numbers_at(recipe, key):
            if not is_inside(number):
                yield full_key, f"must be {description}; {number} given"


def _numbers_at(recipe: Recipe, key: str) -> Iterator[tuple[str, float]]:
    """The numbers at a key, which may hold one, several, one for each name, or none; each with its full key."""
    value = _value_at(recipe, key)
    if isinstance(value, dict):
        for name, number in value.items():
            yield f"{key}.{name}", number
    elif isinstance(value, list):
        for number in value:
            yield key, number
    # Some keys take a word in place of a number.
    elif value is not None and not isinstance(value, str):
        yield key, value


def _value_at(recipe: Recipe, key: str) -> Any:
    """The value at a dotted key; None below an optional section that is null."""
    value: Any = recipe
    for name in key.split("."):
        value = None if value is None else operator.attrgetter(name)(value)
    return value


def _unknown_names(key: str, names: Iterable[str], allowed: Iterable[str], kind: str) -> Problems:
    allowed = list(allowed)
    for name in names:
        if name not in allowed:
            yield key, unknown(kind, name, allowed)
