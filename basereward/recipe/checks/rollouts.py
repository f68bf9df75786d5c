"""Checks of keys that reinforcement learning excludes, and of keys that need it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from basereward.recipe.checks.targets import Target, TargetError, base_class, check_trusted, locate
from basereward.recipe.schema import CurationRecipe, Node, Recipe

BASE = ("basereward.training.objectives.rollouts.contracts", "RolloutObjective")
"""Module and name of the base class of these objectives; its text is searched for, without an import."""
MONITORED_ROLLOUTS = ("pair_accuracy", "accuracy", "order_consistency", "exact_match", "reward")
"""Metrics of rollouts that can choose the best checkpoint; judges have the first three, policies the others."""


def learns_from_rollouts(node: Node | None) -> bool:
    """Whether an objective learns from rewards of texts that the model writes, by the text of its class.

    Args:
        node: section `objective` of a recipe, or None.

    >>> learns_from_rollouts({"_target_": "grpo"}), learns_from_rollouts({"_target_": "ranking"})
    (True, False)
    """
    name = str((node or {}).get("_target_", ""))
    try:
        check_trusted(name, "objectives")
        located: Target | None = locate(name, "objectives")
    except TargetError:
        # The check of the node reports this fault; here it would be a second one.
        return False
    while located is not None:
        if (located.module, located.name) == BASE:
            return True
        located = base_class(located)
    return False


def monitored_rollouts(recipe: Recipe) -> tuple[str, ...]:
    """The measures of a recipe's reward that can choose the best checkpoint, by the text of its class.

    >>> monitored_rollouts(Recipe(objective={"_target_": "grpo", "reward": {"_target_": "judge_sum"}}))
    ('exact_match',)
    """
    node = (recipe.objective or {}).get("reward") or {"_target_": "verdict"}
    name = str(node.get("_target_", "")) if isinstance(node, dict) else ""
    try:
        check_trusted(name, "rewards")
        located: Target | None = locate(name, "rewards")
    except TargetError:
        # The check of the node reports this fault.
        return MONITORED_ROLLOUTS
    while located is not None:
        if (measures := _own_monitored(located)) is not None:
            return measures
        located = base_class(located)
    return MONITORED_ROLLOUTS


def _own_monitored(located: Target) -> tuple[str, ...] | None:
    """The value of `monitored` in the text of a class; None if it is not set there."""
    # Without source text, as of C code, there is no definition.
    for statement in located.definition.body if located.definition is not None else ():
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "monitored" and statement.value:
            return tuple(ast.literal_eval(statement.value))
    return None


def writes_by_vllm(node: Node | None) -> bool:
    """Whether the rollouts of an objective are written by vLLM.

    Args:
        node: section `objective` of a recipe, or None.

    >>> writes_by_vllm({"_target_": "grpo", "rollouts": "vllm"}), writes_by_vllm({"_target_": "grpo"})
    (True, False)
    """
    return learns_from_rollouts(node) and (node or {}).get("rollouts") == "vllm"


def rollout_problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Keys that reinforcement learning excludes, and `model.start` in a recipe that does not use it.

    >>> import dataclasses
    >>> recipe = Recipe(objective={"_target_": "grpo"}, batch=dataclasses.replace(Recipe().batch, tokens=4096))
    >>> [key for key, message in rollout_problems(recipe)]
    ['batch.tokens']
    """
    if not learns_from_rollouts(recipe.objective):
        if recipe.model.start is not None:
            yield (
                "model.start",
                "only reinforcement learning starts from a trained model; set objective to one of grpo, reinforce_pp "
                "and stable_reinforce, or start from a checkpoint with model.backbone.path",
            )
        return
    reason = f"objective '{(recipe.objective or {})['_target_']}' learns from rollouts, "
    for key, (is_set, message) in _excluded(recipe).items():
        if is_set:
            yield key, reason + message
    yield from _engine_problems(recipe)


def _engine_problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """A server of vLLM that nothing uses, and a device without vLLM."""
    node = recipe.objective or {}
    has_server = node.get("vllm_mode") == "server"
    if not writes_by_vllm(node):
        if has_server:
            yield "objective.vllm_mode", "only rollouts of vLLM use a server; set objective.rollouts=vllm"
    elif recipe.trainer.accelerator in ("cpu", "mps"):
        yield (
            "objective.rollouts",
            f"vllm needs a GPU, and trainer.accelerator is {recipe.trainer.accelerator}. Set it to auto",
        )
    if node.get("vllm_server_base_url") is not None and not has_server:
        yield "objective.vllm_server_base_url", "it is for objective.vllm_mode=server, which is not set"


def _excluded(recipe: Recipe) -> dict[str, tuple[bool, str]]:
    """Whether each excluded key is set, and why it is excluded."""
    backbone, trainer, data, batch = recipe.model.backbone, recipe.trainer, recipe.data, recipe.batch
    return {
        "probe": (recipe.probe, "and a probe keeps the model frozen. Set it to false"),
        "data.streaming": (data.streaming is not None, "and all prompts are shuffled together. Set it to null"),
        "data.curation": (data.curation != CurationRecipe(), "and curation selects ranked pairs. Leave it out"),
        "batch.tokens": (batch.tokens is not None, "and their length is unknown. Set batch.groups_per_forward"),
        "batch.modality": (batch.modality != "mixed", "and a batch may mix both kinds of prompts. Set it to mixed"),
        "model.backbone.quantization": (
            backbone.quantization is not None,
            "and adapters are saved merged, which quantized weights do not allow. Set it to null",
        ),
        "model.backbone.checkpoint_layers": (
            isinstance(backbone.checkpoint_layers, int),
            "and TRL recomputes all layers or none. Set it to null",
        ),
        "model.backbone.kernels": (
            backbone.kernels == "liger",
            "and TRL has its own fused computation of log-probabilities. Set it to auto",
        ),
        "trainer.strategy": (
            trainer.strategy == "fsdp2",
            "and FSDP2 would gather every layer on every device for every generated token. Use trainer.strategy=ddp, "
            "and model.lora for a large model",
        ),
        "trainer.compile": (trainer.compile, "and generation does not use torch.compile. Set it to false"),
        "trainer.early_stopping": (
            trainer.early_stopping is not None,
            "and a run always makes all steps; the best weights are kept. Set it to null",
        ),
    }
