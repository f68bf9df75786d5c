"""Estimates work, memory and hours of the cells of an experiment, from their plans and model configurations.

No weights are loaded; the shapes of some groups are measured and scaled to all of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from basereward.io.progress import track
from basereward.model.cost.flops import Counter, Flops
from basereward.model.cost.meta_model import outline
from basereward.model.cost.sequence_shapes import SequenceShape
from basereward.model.reward_model import RewardModel
from basereward.model.saving.made_checkpoint import backbone_path
from basereward.recipe.checks.probing import trained_model
from basereward.recipe.load import Cell
from basereward.recipe.schema import Recipe
from basereward.training.cost.gpu_specs import GPUS, UTILISATION
from basereward.training.cost.largest_pass import SourceLoad
from basereward.training.cost.run_memory import run_memory
from basereward.training.cost.workload import Workload, workload


def costs(
    cells: Sequence[Cell], *, gpus: Iterable[str] = tuple(GPUS), utilisation: float | None = None
) -> list[dict[str, Any]]:
    """Estimate the cost of every cell; see `recipe_cost`. Cells with the same data and plan share one `Workload`.

    Args:
        cells: of an experiment.
        gpus: names in `GPUS`.
        utilisation: share of a GPU's peak at which it computes; by default `UTILISATION`.

    Raises:
        BaseRewardError: the recipes or the data have an error, or a configuration cannot be loaded.
    """
    workloads: dict[str, Workload] = {}
    results = []
    for cell in track(cells, "counting the cost", unit="cells"):
        # Reading the lengths of all groups takes minutes for large sources; the cells of a sweep mostly share them.
        key = _workload_key(cell.recipe)
        if key not in workloads:
            workloads[key] = workload(cell.recipe)
        results.append(recipe_cost(cell.recipe, workloads[key], gpus=gpus, utilisation=utilisation or UTILISATION))
    return results


def _workload_key(recipe: Recipe) -> str:
    """Everything of a recipe on which its workload depends."""
    plan = (recipe.trainer.epochs, recipe.trainer.steps, recipe.trainer.validations, recipe.seeds.data)
    backbone = dataclasses.replace(recipe.model.backbone, freeze=[], gradient_checkpointing=False)
    return repr((recipe.data, recipe.batch, backbone, recipe.model.pooling, plan))


def recipe_cost(
    recipe: Recipe, load: Workload, *, gpus: Iterable[str] = tuple(GPUS), utilisation: float = UTILISATION
) -> dict[str, Any]:
    """Estimate the cost of one run.

    Args:
        recipe: of the run.
        load: what it reads.
        gpus: names in `GPUS`.
        utilisation: share of a GPU's peak at which it computes, recomputation included.

    Returns:
        `steps`; `tokens` and `flops`, of a `step` and of the whole `run`; `parameters`; `bytes`, the largest amounts
        held at once, with their sum `peak`; `utilisation`; and for every GPU the `hours`, whether the peak `fits` in
        its memory, and the `mfu`, the share of its peak that goes into useful work. For a probe, `step` counts the head
        alone, and `run` counts the head and the computation of all states with an empty cache.
    """
    # On the meta device: shapes without weights, so that a backbone of any size needs no memory.
    model = outline(trained_model(recipe), path=backbone_path(recipe.model.backbone))
    counter = Counter(model)
    totals = _probe_totals(counter, load) if recipe.probe else _training_totals(counter, load)
    step, held = totals.step, run_memory(recipe, model, load.largest)
    recomputed = load.steps * step.recomputed
    work = totals.useful + recomputed + totals.evaluation
    run_flops = {"useful": totals.useful, "recomputed": recomputed, "evaluation": totals.evaluation, "all": work}
    gpu_costs = {}
    for name in gpus:
        gpu_costs[name] = {
            # Recomputed activations take time and are no useful work, so they count for the hours but not for the MFU.
            "hours": work / (peak_flops(recipe, name) * utilisation) / 3600,
            "fits": held.peak <= GPUS[name].memory,
            "mfu": utilisation * step.total / (step.total + step.recomputed),
        }
    return {
        "steps": load.steps,
        "tokens": {"step": round(totals.step_tokens), "run": round(totals.tokens)},
        "flops": {"step": dataclasses.asdict(step) | {"total": step.total}, "run": run_flops},
        "parameters": parameter_counts(model),
        "bytes": dataclasses.asdict(held) | {"peak": held.peak},
        "utilisation": utilisation,
        "gpus": gpu_costs,
    }


class _Totals(NamedTuple):
    """Tokens and work of a run. Work is in FLOP; `useful` leaves out recomputation and evaluation."""

    step: Flops
    step_tokens: float
    # Of all steps.
    tokens: float
    useful: int
    evaluation: int


def _training_totals(counter: Counter, load: Workload) -> _Totals:
    sources = load.sources.values()
    step = _scaled([(load.groups * source.share, source, counter(_shapes(source))) for source in sources])
    evaluation = sum(_forward(counter, source, _evaluated_tokens(source, load)).total for source in sources)
    step_tokens = load.groups * sum(source.share * source.tokens for source in sources)
    return _Totals(step, step_tokens, load.steps * step_tokens, load.steps * step.total, evaluation)


def _probe_totals(counter: Counter, load: Workload) -> _Totals:
    """A step runs the head alone; the backbone reads every group once."""
    step = Flops(head=_training_totals(counter, load).step.head)
    useful, evaluation = load.steps * step.total, 0
    for source in load.sources.values():
        # The backbone reads a group once, for its states; the head reads the held-out states at every validation.
        states = _forward(counter, source, source.pooled)
        held_out = _forward(counter, source, sum(source.held_out.values()))
        scored = _forward(counter, source, _evaluated_tokens(source, load))
        useful += states.total - states.head
        evaluation += held_out.total - held_out.head + scored.head
    return _Totals(step, 0, sum(source.pooled for source in load.sources.values()), useful, evaluation)


def _shapes(source: SourceLoad) -> list[SequenceShape]:
    """The rows of all sampled groups of a source."""
    rows: list[SequenceShape] = []
    for group_rows in source.sample:
        rows += group_rows
    return rows


def _sampled_tokens(source: SourceLoad) -> int:
    return sum(shape.tokens for shape in _shapes(source))


def _scaled(parts: Sequence[tuple[float, SourceLoad, Flops]]) -> Flops:
    """Scale the work of the samples to numbers of groups, in proportion to their tokens, and return the sum.

    Args:
        parts: number of groups, source, and work of the sample of that source.
    """
    sums = dict.fromkeys(Flops.__slots__, 0.0)
    for num_groups, source, flops in parts:
        scale = num_groups * source.tokens / _sampled_tokens(source)
        for kind, value in dataclasses.asdict(flops).items():
            sums[kind] += scale * value
    return Flops(**{kind: round(value) for kind, value in sums.items()})


def _evaluated_tokens(source: SourceLoad, load: Workload) -> int:
    """Tokens that are scored at every validation and once in the test."""
    return source.held_out["val"] * load.validations + source.held_out["test"]


def _forward(counter: Counter, source: SourceLoad, tokens: int) -> Flops:
    """The work of scoring a number of tokens, from that of the sample."""
    scale = tokens / _sampled_tokens(source)
    flops = dataclasses.asdict(counter(_shapes(source), training=False))
    return Flops(**{kind: round(scale * value) for kind, value in flops.items()})


def parameter_counts(model: RewardModel) -> dict[str, int]:
    """The number of all weights, and of those that are trained."""
    sizes = [(math.prod(p.shape), p.requires_grad) for p in model.parameters()]
    return {"all": sum(size for size, _ in sizes), "trained": sum(size for size, trained in sizes if trained)}


def peak_flops(recipe: Recipe, gpu: str) -> float:
    """Peak of a GPU in FLOP/s, in the precision of the recipe."""
    reduced = recipe.trainer.precision == "bf16-mixed" or recipe.model.backbone.dtype == "bfloat16"
    return GPUS[gpu].bfloat16 if reduced else GPUS[gpu].float32
