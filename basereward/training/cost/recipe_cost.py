"""What cells of an experiment would cost: work, memory and hours, from their plans and their models' configurations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from basereward.model.cost.flops import Counter, Flops
from basereward.model.cost.memory import Memory, memory
from basereward.model.cost.meta_model import outline
from basereward.model.reward_model import RewardModel
from basereward.model.saving.made_checkpoint import backbone_path
from basereward.recipe.checks.probing import trained_model
from basereward.recipe.load import Cell
from basereward.recipe.schema import Recipe
from basereward.training.cost.gpu_specs import GPUS, UTILISATION
from basereward.training.cost.workload import SourceLoad, Workload, workload


def costs(
    cells: Sequence[Cell], *, gpus: Iterable[str] = tuple(GPUS), utilisation: float | None = None
) -> list[dict[str, Any]]:
    """The cost of every cell; see `recipe_cost`. Cells that read the same share what is read.

    Raises:
        BaseRewardError: anything that the recipes or the data have wrong; a configuration that cannot be reached.
    """
    known: dict[str, Workload] = {}
    found = []
    for cell in cells:
        key = _reads(cell.recipe)
        if key not in known:
            known[key] = workload(cell.recipe)
        found.append(recipe_cost(cell.recipe, known[key], gpus=gpus, utilisation=utilisation or UTILISATION))
    return found


def _reads(recipe: Recipe) -> str:
    """All of a recipe that decides what is read, and when."""
    plan = (recipe.trainer.epochs, recipe.trainer.steps, recipe.trainer.validations, recipe.seeds.data)
    backbone = dataclasses.replace(recipe.model.backbone, freeze=[], gradient_checkpointing=False)
    return repr((recipe.data, recipe.batch, backbone, recipe.model.pooling, plan))


def recipe_cost(
    recipe: Recipe, load: Workload, *, gpus: Iterable[str] = tuple(GPUS), utilisation: float = UTILISATION
) -> dict[str, Any]:
    """The cost of one run.

    Args:
        load: what it reads.
        gpus: names in `GPUS`.
        utilisation: share of a GPU's peak at which it multiplies, what is recomputed included.

    Returns:
        `steps`; `tokens` and `flops`, of a `step` and of the whole `run`; `parameters`; `bytes`, the most that are held
        at once, with their sum `peak`; `utilisation`; and for every GPU the `hours`, whether the peak `fits` in its
        memory, and the `mfu`: the share of its peak that goes into useful work. A probe's `step` is of its head; its
        run's tokens and work are those of the states, from an empty cache, and of the head.
    """
    model = outline(trained_model(recipe), path=backbone_path(recipe.model.backbone))
    counter = Counter(model)
    done = _probed(counter, load) if recipe.probe else _trained(counter, load)
    step, held = done.step, _memory(recipe, model, load)
    recomputed = load.steps * step.recomputed
    work = done.useful + recomputed + done.evaluation
    return {
        "steps": load.steps,
        "tokens": {"step": round(done.step_tokens), "run": round(done.tokens)},
        "flops": {
            "step": dataclasses.asdict(step) | {"total": step.total},
            "run": {
                "useful": done.useful,
                "recomputed": recomputed,
                "evaluation": done.evaluation,
                "all": work,
            },
        },
        "parameters": _parameters(model),
        "bytes": dataclasses.asdict(held) | {"peak": held.peak},
        "utilisation": utilisation,
        "gpus": {
            name: {
                "hours": work / (_peak(recipe, name) * utilisation) / 3600,
                "fits": held.peak <= GPUS[name].memory,
                "mfu": utilisation * step.total / (step.total + step.recomputed),
            }
            for name in gpus
        },
    }


class _Done(NamedTuple):
    """What a run reads and multiplies."""

    step: Flops
    step_tokens: float
    tokens: float  # of all steps
    useful: int
    evaluation: int


def _trained(counter: Counter, load: Workload) -> _Done:
    step = _scaled([(load.groups * each.share, each, counter(_shapes(each))) for each in load.sources.values()])
    evaluation = sum(_forward(counter, each, _evaluated(each, load)).total for each in load.sources.values())
    tokens = load.groups * sum(each.share * each.tokens for each in load.sources.values())
    return _Done(step, tokens, load.steps * tokens, load.steps * step.total, evaluation)


def _probed(counter: Counter, load: Workload) -> _Done:
    """A step runs the head alone; the backbone reads every group once."""
    step = Flops(head=_trained(counter, load).step.head)
    useful, evaluation = load.steps * step.total, 0
    for each in load.sources.values():
        states, held_out = (_forward(counter, each, n) for n in (each.pooled, sum(each.held_out.values())))
        useful += states.total - states.head
        evaluation += held_out.total - held_out.head + _forward(counter, each, _evaluated(each, load)).head
    return _Done(step, 0, sum(each.pooled for each in load.sources.values()), useful, evaluation)


def _shapes(source: SourceLoad) -> list[Any]:
    return [shape for shapes in source.sample for shape in shapes]


def _sampled_tokens(source: SourceLoad) -> int:
    return sum(shape.tokens for shape in _shapes(source))


def _scaled(parts: Sequence[tuple[float, SourceLoad, Flops]]) -> Flops:
    """The work of so many groups of each source: that of its sample, by tokens."""
    scales = [groups * source.tokens / _sampled_tokens(source) for groups, source, _ in parts]
    named = [dataclasses.asdict(flops) for _, _, flops in parts]
    sums = {
        kind: sum(scale * flops[kind] for scale, flops in zip(scales, named, strict=True)) for kind in Flops.__slots__
    }
    return Flops(**{kind: round(value) for kind, value in sums.items()})


def _evaluated(source: SourceLoad, load: Workload) -> int:
    """Tokens of the held-out groups that are scored, at every validation and once in the test."""
    return source.held_out["val"] * load.validations + source.held_out["test"]


def _forward(counter: Counter, source: SourceLoad, tokens: int) -> Flops:
    """The work of scoring so many tokens."""
    scale = tokens / _sampled_tokens(source)
    named = dataclasses.asdict(counter(_shapes(source), training=False))
    return Flops(**{kind: round(scale * value) for kind, value in named.items()})


def _memory(recipe: Recipe, model: RewardModel, load: Workload) -> Memory:
    lora = recipe.model.lora
    return memory(
        model,
        load.largest,
        mixed=recipe.trainer.precision == "bf16-mixed",
        quantization=recipe.model.backbone.quantization,
        eight_bit=recipe.optimizer.kind.endswith("8bit"),
        dropout=lora is not None and lora.dropout > 0,
    )


def _parameters(model: RewardModel) -> dict[str, int]:
    sizes = [(math.prod(p.shape), p.requires_grad) for p in model.parameters()]
    return {"all": sum(size for size, _ in sizes), "trained": sum(size for size, trained in sizes if trained)}


def _peak(recipe: Recipe, gpu: str) -> float:
    """FLOP/s, in the precision of the recipe's products."""
    reduced = recipe.trainer.precision == "bf16-mixed" or recipe.model.backbone.dtype == "bfloat16"
    return GPUS[gpu].bfloat16 if reduced else GPUS[gpu].float32
