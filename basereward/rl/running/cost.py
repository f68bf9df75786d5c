"""Estimates work, memory and hours of cells, also of those that learn from rollouts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from basereward.data.encoding.encoder import Encoder
from basereward.data.images.vision_features import Grid
from basereward.data.schema.group import Group
from basereward.model.cost.flops import Counter, Flops
from basereward.model.cost.meta_model import outline
from basereward.model.cost.sequence_shapes import SequenceShape
from basereward.model.families.processing import recipe_encoder
from basereward.model.saving.made_checkpoint import backbone_path
from basereward.recipe import Cell
from basereward.recipe.checks.rollouts import learns_from_rollouts
from basereward.recipe.schema import Recipe
from basereward.rl.running.rollout_rows import RolloutRows, evenly_spread, num_steps, validation_steps
from basereward.training.cost.gpu_specs import GPUS, UTILISATION
from basereward.training.cost.recipe_cost import costs as costs_by_lightning
from basereward.training.cost.recipe_cost import parameter_counts, peak_flops
from basereward.training.cost.rollouts import (
    PromptSize,
    largest_rollouts,
    modelled,
    rollout_settings,
    trains_judge,
    uses_head,
    with_reference,
)
from basereward.training.cost.run_memory import run_memory
from basereward.training.data_summary import preview_rejections_file
from basereward.training.objectives.rollouts.contracts import RolloutObjective

SAMPLED = 32
"""Groups of the mixture that are encoded as a sample."""


def costs(
    cells: Sequence[Cell], *, gpus: Iterable[str] = tuple(GPUS), utilisation: float | None = None
) -> list[dict[str, Any]]:
    """Estimate the cost of every cell; see `basereward.training.cost.recipe_cost` and `rollout_cost`.

    Args:
        cells: of an experiment.
        gpus: names in `GPUS`.
        utilisation: share of a GPU's peak at which it computes; by default `UTILISATION`.

    Raises:
        BaseRewardError: the recipes or the data have an error, or a configuration cannot be loaded.

    >>> costs([])
    []
    """
    gpus = tuple(gpus)
    others = [cell for cell in cells if not learns_from_rollouts(cell.recipe.objective)]
    by_lightning = iter(costs_by_lightning(others, gpus=gpus, utilisation=utilisation) if others else [])
    results: list[dict[str, Any]] = []
    for cell in cells:
        if learns_from_rollouts(cell.recipe.objective):
            results.append(rollout_cost(cell.recipe, gpus=gpus, utilisation=utilisation or UTILISATION))
        else:
            results.append(next(by_lightning))
    return results


def rollout_cost(
    recipe: Recipe, *, gpus: Iterable[str] = tuple(GPUS), utilisation: float = UTILISATION
) -> dict[str, Any]:
    """Estimate the cost of a run of reinforcement learning, whose rollouts all have `objective.max_tokens`.

    The count for each rollout has its generation (a forward pass of its prompt and of each of its tokens), the forward
    passes for its old and reference log-probabilities if they are needed, and the forward and backward pass of the
    loss. Generation is counted as of `objective.rollouts=transformers`; `shared_prefix` needs less, because it reads
    each prompt once. The work of the reward is not counted.

    Args:
        recipe: whose objective learns from rollouts.
        gpus: names in `GPUS`.
        utilisation: share of a GPU's peak at which it computes. Generation reaches far less.

    Returns:
        As `recipe_cost`; `rollouts` has the numbers of rollouts and their tokens, and the work of a step by its parts.
    """
    settings, path = rollout_settings(recipe), backbone_path(recipe.model.backbone)
    model = outline(modelled(recipe).model, path=path)
    encoder = recipe_encoder(recipe, path=path)
    if not uses_head(recipe):
        encoder = encoder.with_branch_template(None)
    rows = RolloutRows(recipe, encoder=encoder, rejections_file=preview_rejections_file(recipe.name))
    groups = rows.training_groups()
    shapes = [_shape(group, encoder, settings) for group in evenly_spread(groups, SAMPLED)]
    steps = num_steps(recipe, rows=round(len(groups) * _rows_of_group(groups, settings)))
    rollouts = recipe.batch.groups * settings.rollouts_per_prompt
    work = _work(Counter(model), shapes, settings, rollouts=rollouts)
    evaluation = round(work.forward * _held_out_rollouts(recipe, rows, settings, steps))
    held = run_memory(recipe, model, largest_rollouts(recipe, [_prompt(shape) for shape in shapes]))
    held = with_reference(recipe, held)
    tokens = round(rollouts / len(shapes) * sum(shape.tokens for shape in shapes))
    useful, recomputed = steps * sum(work.parts.values()), steps * work.loss.recomputed
    operations = useful + recomputed + evaluation
    mfu = utilisation * work.loss.total / (work.loss.total + work.loss.recomputed)
    gpu_costs: dict[str, dict[str, Any]] = {}
    for name in gpus:
        hours = operations / (peak_flops(recipe, name) * utilisation) / 3600
        gpu_costs[name] = {"hours": hours, "fits": held.peak <= GPUS[name].memory, "mfu": mfu}
    run_flops = {"useful": useful, "recomputed": recomputed, "evaluation": evaluation, "all": operations}
    return {
        "steps": steps,
        "tokens": {"step": tokens, "run": steps * tokens},
        "rollouts": {"step": rollouts, "run": steps * rollouts, "tokens": settings.max_tokens, "flops": work.parts},
        "flops": {"step": dataclasses.asdict(work.step) | {"total": work.step.total}, "run": run_flops},
        "parameters": parameter_counts(model),
        "bytes": dataclasses.asdict(held) | {"peak": held.peak},
        "utilisation": utilisation,
        "gpus": gpu_costs,
    }


class _Work(NamedTuple):
    """Floating-point operations of a step: of its loss, of all of it, by its parts, and of one rollout forward."""

    loss: Flops
    step: Flops
    parts: dict[str, int]
    forward: float


def _work(counter: Counter, shapes: Sequence[SequenceShape], settings: RolloutObjective, *, rollouts: int) -> _Work:
    factor = rollouts / len(shapes)
    forward = _scaled(counter(shapes, training=False), factor)
    loss = _scaled(counter(shapes), factor)
    passes = forward_passes(settings)
    parts = {name: forward.total * number for name, number in passes.items()}
    step = loss
    for _ in range(sum(passes.values())):
        step = step + forward
    return _Work(loss, step, {**parts, "loss": loss.total}, forward.total / rollouts)


def forward_passes(settings: RolloutObjective) -> dict[str, int]:
    """The forward passes of a rollout besides that of the loss.

    The old log-probabilities are those of the loss where every rollout is used before the policy changes.

    Args:
        settings: of the objective.

    >>> from basereward.model.losses.contracts import PreferenceLoss
    >>> forward_passes(RolloutObjective(PreferenceLoss(), updates=2))
    {'generation': 1, 'old': 1, 'reference': 0}
    """
    has_reference = bool(settings.beta) or settings.keep_reference
    return {
        "generation": 1,
        "old": int(settings.updates > 1 or has_reference),
        "reference": int(has_reference),
    }


def _shape(group: Group, encoder: Encoder, settings: RolloutObjective) -> SequenceShape:
    """A rollout of a group's prompt; a judge's prompt has both answers."""
    encoded = encoder(group)
    answers = max(len(branch) for branch in encoded.branches) if trains_judge(settings) else 0
    grids: list[Grid] = []
    for frames, height, width in [] if encoded.images_thw is None else encoded.images_thw.tolist():
        grids.append((frames, height, width))
    return SequenceShape(
        len(encoded.prefix) + answers, (settings.max_tokens,), images=tuple(grids), written=settings.max_tokens
    )


def _prompt(shape: SequenceShape) -> PromptSize:
    patches = 0
    for frames, height, width in shape.images:
        patches += frames * height * width
    return PromptSize(shape.prefix, patches)


def _rows_of_group(groups: Sequence[Group], settings: RolloutObjective) -> float:
    """Prompts of a group: a judge is asked about every preference that is not a tie."""
    if not trains_judge(settings):
        return 1.0
    sample = list(evenly_spread(groups, SAMPLED))
    return sum(sum(not preference.tie for preference in group.preferences) for group in sample) / len(sample)


def _held_out_rollouts(recipe: Recipe, rows: RolloutRows, settings: RolloutObjective, steps: int) -> float:
    """Texts that are written in validations and in the test; a judge is asked in both orders."""
    stages = validation_steps(steps, validations=recipe.trainer.validations, updates=settings.updates)
    total = 0.0
    for split, times in (("val", len(stages) + 1), ("test", 1)):
        for name in rows.sources:
            groups = evenly_spread(rows.groups("val" if split == "val" else "test", name), settings.held_out)
            if len(groups):
                total += times * len(groups) * _rows_of_group(groups, settings) * (2 if trains_judge(settings) else 1)
    return total


def _scaled(flops: Flops, factor: float) -> Flops:
    return Flops(**{kind: round(factor * value) for kind, value in dataclasses.asdict(flops).items()})
