"""Values that are of the right type and still cannot be meant."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from basereward.errors import unknown
from basereward.io.names import clean_name, name_problem
from basereward.io.secrets import has_secret_query, userinfo_of
from basereward.recipe.checks.generative_heads import draws, pooling, votes
from basereward.recipe.checks.probing import PARTS, features, probe, trained_model
from basereward.recipe.schema import CurationRecipe, Recipe

Problems: TypeAlias = Iterator[tuple[str, str]]

MONITORED = ("pair_accuracy", "mean_margin")  # of these more is better
LARGEST_SEED = 2**32 - 1  # of numpy

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
    "trainer.early_stopping.patience",
    "trainer.epochs",
    "trainer.log_every",
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
AT_MOST = {  # beyond any use, and below what would fill the memory or the process table before an error comes
    "batch.groups": 1_000_000,
    "batch.groups_per_forward": 100_000,
    "data.prefetch": 1_000,
    "data.streaming.buffer": 10_000_000,
    "data.streaming.held_out": 10_000_000,
    "data.workers": 512,
    "model.lora.rank": 8_192,
    "trainer.epochs": 1_000_000,
    "trainer.steps": 1_000_000_000,
    "trainer.validations": 100_000,
}
SHARES = ("data.max_lost", "schedule.final", "schedule.warmup")
SHARES_BELOW_ONE = ("model.lora.dropout", "optimizer.betas")


def range_problems(recipe: Recipe) -> list[tuple[str, str]]:
    """Everything that `CHECKS` find, as (key, message)."""
    return [problem for check in CHECKS for problem in check(recipe)]


def bounds(recipe: Recipe) -> Problems:
    """Numbers in their ranges; NaN is in none."""
    yield from _outside(recipe, POSITIVE, lambda number: 0 < number < math.inf, "above 0")
    yield from _outside(recipe, NOT_NEGATIVE, lambda number: 0 <= number < math.inf, "at least 0")
    for key, limit in AT_MOST.items():
        for at, number in _numbers(key, _get(recipe, key)):
            if number > limit:
                yield at, f"must be at most {limit:,}; {number} given"
    yield from _outside(recipe, SHARES, lambda number: 0 <= number <= 1, "from 0 to 1")
    yield from _outside(recipe, SHARES_BELOW_ONE, lambda number: 0 <= number < 1, "from 0 to below 1")


def seeds(recipe: Recipe) -> Problems:
    """Seeds that numpy and torch take."""
    for name, seed in dataclasses.asdict(recipe.seeds).items():
        if not 0 <= seed <= LARGEST_SEED:
            yield f"seeds.{name}", f"a seed is from 0 to {LARGEST_SEED}; {seed} given"


def backbone(recipe: Recipe) -> Problems:
    """One backbone, from one place."""
    path, make = recipe.model.backbone.path, recipe.model.backbone.make
    if not path and make is None:
        yield "model.backbone", "one of `path` (a hub id or a folder) and `make` is needed; neither is given"
    if path and make is not None:
        yield "model.backbone", f"only one of `path` ('{path}') and `make` can be meant; set the other to null"
    if not path and recipe.model.backbone.revision is not None:
        yield "model.backbone.revision", "is of a hub repository, and `path` names none"


def source_names(recipe: Recipe) -> Problems:
    """Names of sources that stay different in the names of metrics, where MLflow forbids some characters."""
    known: dict[str, str] = {}
    for name in recipe.data.sources:
        metric = clean_name(f"val/{name}/pair_accuracy")
        if metric in known:
            yield f"data.sources.{name}", f"its metrics are called {metric}, as those of '{known[metric]}'; rename one"
        known.setdefault(metric, name)


def parts(recipe: Recipe) -> Problems:
    """Names of the backbone's parts; every learning rate of a part meets weights that are trained."""
    lora = recipe.model.lora
    yield from _names("model.backbone.freeze", recipe.model.backbone.freeze, PARTS, "part")
    yield from _names("optimizer.lr_by_part", recipe.optimizer.lr_by_part, (*PARTS, "head"), "part")
    if lora is not None:
        yield from _names("model.lora.parts", lora.parts, PARTS, "part")
        if not lora.parts:
            yield "model.lora.parts", f"at least one of {', '.join(PARTS)} is needed; none given"
    still = set(trained_model(recipe).backbone.freeze) if lora is None else {*PARTS}.difference(lora.parts)
    for part in sorted(still.intersection(recipe.optimizer.lr_by_part)):
        reason = "model.backbone.freeze names it" if lora is None else "model.lora.parts leaves it out"
        reason = "probe freezes it" if recipe.probe else reason
        yield f"optimizer.lr_by_part.{part}", f"the part is not trained, so its learning rate changes nothing: {reason}"


def sources(recipe: Recipe) -> Problems:
    """At least one source; shares of all of them or of none."""
    names, mixture = recipe.data.sources, recipe.data.mixture
    if not names:
        yield "data.sources", "at least one source is needed, as in {digits: {include: sources/digits}}"
        return
    yield from _names("data.mixture.weights", mixture.weights, names, "source")
    yield from _names("data.mixture.limits", mixture.limits, names, "source")
    yield from _names("data.mixture.passes", mixture.passes, names, "source")
    if mixture.weights and mixture.passes:
        yield "data.mixture.passes", "weights say already how often a source comes; give one of the two"
    unweighted = [name for name in names if name not in mixture.weights]
    if mixture.weights and unweighted:
        yield "data.mixture.weights", f"every source needs a share once one has; missing: {', '.join(unweighted)}"


def pixels(recipe: Recipe) -> Problems:
    """A range of pixels that is not empty."""
    low, high = recipe.data.encoding.min_pixels, recipe.data.encoding.max_pixels
    if low is not None and high is not None and low > high:
        yield "data.encoding.min_pixels", f"{low} is above max_pixels, {high}"


def batch(recipe: Recipe) -> Problems:
    """A step of the optimizer is a whole number of forward passes."""
    groups, once = recipe.batch.groups, recipe.batch.groups_per_forward
    if recipe.batch.tokens is None and once > 0 and groups % once:
        yield "batch.groups", f"{groups} is no multiple of groups_per_forward = {once}"


def curation(recipe: Recipe) -> Problems:
    """Similarities that can be told apart, and a threshold that drops what is wrong."""
    near, drop = recipe.data.curation.near, recipe.data.curation.drop
    if near is not None and not 0.7 <= near <= 1:
        yield "data.curation.near", f"must be from 0.7 to 1; {near} given"
    if not drop >= 0:
        yield "data.curation.drop", f"must be at least 0; {drop} given"


def streaming(recipe: Recipe) -> Problems:
    """Of a stream neither the size nor the lengths are known before it is read."""
    if recipe.data.streaming is None:
        return
    if recipe.trainer.steps is None:
        yield "trainer.steps", "data.streaming does not know how long an epoch is; say how many steps to train"
    if recipe.batch.tokens is not None or recipe.batch.modality != "mixed":
        yield "batch", "data.streaming does not know lengths before it reads: leave out batch.tokens and batch.modality"
    mixture = recipe.data.mixture
    if recipe.data.curation != CurationRecipe():
        yield "data.curation", "data.streaming reads every group once and looks for nothing in others; leave one out"
    if mixture.limits or mixture.passes:
        yield "data.mixture", "data.streaming mixes by weights alone: leave out limits and passes"
    if len(recipe.data.sources) > 1 and not mixture.weights:
        yield "data.mixture.weights", "streamed sources are mixed by weight; give one to each"


def betas(recipe: Recipe) -> Problems:
    """AdamW has two."""
    if len(recipe.optimizer.betas) != 2:
        yield "optimizer.betas", f"two numbers are needed; {len(recipe.optimizer.betas)} given"


def cost(recipe: Recipe) -> Problems:
    """What makes a step cheaper, only where it does."""
    backbone, accelerator = recipe.model.backbone, recipe.trainer.accelerator
    if backbone.checkpoint_layers is not None and not backbone.gradient_checkpointing:
        yield "model.backbone.checkpoint_layers", "says how many layers gradient_checkpointing is of, and that is false"
    if recipe.data.prefetch is not None and not recipe.data.workers:
        yield "data.prefetch", "is of the processes that load data, and there are none: set data.workers above 0"
    if accelerator not in ("cpu", "mps"):
        return
    if recipe.optimizer.kind.startswith("paged_"):
        message = f"'{recipe.optimizer.kind}' needs an NVIDIA GPU, and trainer.accelerator is {accelerator}"
        yield "optimizer.kind", f"{message}. Allowed there: adamw, adamw_8bit."
    if backbone.kernels == "liger":
        message = f"'liger' needs an NVIDIA GPU, and trainer.accelerator is {accelerator}"
        yield "model.backbone.kernels", f"{message}. Allowed there: none."


def monitor(recipe: Recipe) -> Problems:
    """`val/<metric>` or `val/<source>/<metric>`, of a metric of which more is better."""
    given = recipe.trainer.monitor
    head, *between, metric = given.split("/")
    if head != "val" or metric not in MONITORED or len(between) > 1:
        allowed = [f"val/{name}" for name in MONITORED]
        allowed += [f"val/{source}/{name}" for source in recipe.data.sources for name in MONITORED]
        yield "trainer.monitor", unknown("metric", given, allowed)
    elif between:
        yield from _names("trainer.monitor", between, recipe.data.sources, "source")


def names(recipe: Recipe) -> Problems:
    """Names that become those of files, folders and metrics."""
    given = {"name": recipe.name, "tracking.experiment": recipe.tracking.experiment}
    given |= {f"data.sources.{name}": name for name in recipe.data.sources}
    for key, name in given.items():
        if name is not None and (problem := name_problem(name, slashes=True)):
            yield key, problem


def tracking(recipe: Recipe) -> Problems:
    """An address without a password: a recipe is kept with its run and its model, and sent to MLflow."""
    uri = recipe.tracking.uri
    if uri is not None and (userinfo_of(uri) or has_secret_query(uri)):
        yield (
            "tracking.uri",
            "holds a user, a password or another secret, and a recipe is kept with every run and model. Leave it out, "
            "and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN, or "
            "MLFLOW_TRACKING_URI with user and password",
        )


CHECKS: tuple[Callable[[Recipe], Problems], ...] = (
    bounds,
    source_names,
    seeds,
    backbone,
    parts,
    sources,
    pixels,
    features,
    pooling,
    draws,
    votes,
    probe,
    batch,
    curation,
    streaming,
    betas,
    cost,
    monitor,
    names,
    tracking,
)


def _outside(recipe: Recipe, keys: Iterable[str], inside: Callable[[float], bool], words: str) -> Problems:
    for key in keys:
        for at, number in _numbers(key, _get(recipe, key)):
            if not inside(number):
                yield at, f"must be {words}; {number} given"


def _numbers(key: str, value: Any) -> Iterator[tuple[str, float]]:
    """The numbers at a key, which may hold one, several, named ones or none."""
    if isinstance(value, dict):
        yield from ((f"{key}.{name}", number) for name, number in value.items())
    elif isinstance(value, list):
        yield from ((key, number) for number in value)
    elif value is not None:
        yield key, value


def _get(recipe: Recipe, key: str) -> Any:
    """The value at a dotted key; None below an optional section that is not there."""
    value: Any = recipe
    for name in key.split("."):
        value = None if value is None else operator.attrgetter(name)(value)
    return value


def _names(key: str, given: Iterable[str], allowed: Iterable[str], kind: str) -> Problems:
    allowed = list(allowed)
    for name in given:
        if name not in allowed:
            yield key, unknown(kind, name, allowed)
