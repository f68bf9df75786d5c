"""Builds what a run of reinforcement learning needs before its trainer: start, rows, reward, policy, objective."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import nn

from basereward.data.encoding.encoder import Encoder
from basereward.data.lazy_table import LazyTable
from basereward.errors import RecipeError
from basereward.io.progress import phase
from basereward.model.families.parts import freeze
from basereward.model.families.processing import recipe_encoder
from basereward.model.losses.contracts import build_loss
from basereward.model.policy import Policy, load_policy
from basereward.model.saving.card import CARD
from basereward.model.saving.chat_checkpoint import chat_checkpoint
from basereward.model.saving.identity import checkpoint_identity, precision_text
from basereward.model.saving.made_checkpoint import backbone_path
from basereward.model.saving.saved_model import PROMPT
from basereward.recipe import make
from basereward.recipe.schema import Node, Recipe
from basereward.rl.objectives import PolicyObjective
from basereward.rl.rewards.contracts import RolloutReward
from basereward.rl.running.held_out import HeldOutRows, plain_rows
from basereward.rl.running.rollout_rows import RolloutRows, num_steps, ordered_rows, validation_steps
from basereward.runs.resolve_model import resolve_model
from basereward.training.checks.rows import rejections_file
from basereward.training.objectives.contracts import build_objective
from basereward.training.objectives.rollouts.contracts import RolloutObjective
from basereward.training.parallel.collectives import first_on_machine, is_first
from basereward.training.preflight import check_ready
from basereward.training.run_identity import RunIdentity

logger = logging.getLogger(__name__)

MONITOR = "val/pair_accuracy"
"""The monitor of a recipe that names none. A reward without this measure is then monitored by its first one."""


@dataclass(frozen=True)
class PreparedPolicy:
    """What a run trains, and on what.

    Attributes:
        settings: of the objective.
        head: of the recipe; a judge is saved with it.
        encoder: of rows.
        reward: of rollouts.
        rows: of the recipe's sources.
        held_out: rows that are answered in validations and in the test.
        policy: what learns.
        table: the prompts of all steps in their order.
        steps: optimizer steps.
        validations: the steps after which held-out rows are answered.
        identity: of the start and of the rows.
    """

    settings: RolloutObjective
    head: nn.Module
    encoder: Encoder
    reward: RolloutReward
    rows: RolloutRows
    held_out: HeldOutRows
    policy: Policy
    table: LazyTable
    steps: int
    validations: list[int]
    identity: RunIdentity


def prepare_policy(recipe: Recipe) -> PreparedPolicy:
    """Build everything up to the trainer. Nothing is written but caches and the list of rejected rows.

    Args:
        recipe: with an objective that learns from rollouts.

    Raises:
        BaseRewardError: the recipe or the data have an error, or the start cannot be opened.
    """
    check_ready(recipe)
    head = make(recipe.model.head, "heads", 1)
    settings = build_objective(recipe.objective, loss=build_loss(recipe.loss), head=head)
    assert isinstance(settings, RolloutObjective)
    reward = build_reward(recipe, settings, head)
    # The others find in caches what the first process of the machine writes.
    with first_on_machine():
        path, encoder, rows = _read(recipe, reward, head)
    table = reward.rows(rows.training_groups(), seed=recipe.seeds.data)
    steps = num_steps(recipe, rows=len(table))
    with phase("loading the model"):
        policy = _load(recipe, path)
    plain = not policy.reads_images
    generation = recipe.batch.groups * settings.updates
    prompts = -(-steps // settings.updates) * generation
    ordered = ordered_rows(table, count=prompts, seed=recipe.seeds.data)
    origin = checkpoint_identity(
        path, revision=_revision(recipe, path), precision=precision_text(recipe.model.backbone.dtype, None)
    )
    return PreparedPolicy(
        settings=settings,
        head=head,
        encoder=encoder,
        reward=reward,
        rows=rows,
        held_out=HeldOutRows(reward, rows, most=settings.held_out, plain=plain),
        policy=policy,
        table=plain_rows(ordered) if plain else ordered,
        steps=steps,
        validations=validation_steps(steps, validations=recipe.trainer.validations, updates=settings.updates),
        identity=RunIdentity(origin.with_encoder(encoder), rows.content, None),
    )


def build_reward(recipe: Recipe, settings: RolloutObjective, head: nn.Module) -> RolloutReward:
    """Build the reward of a recipe; a judge is asked by the prompt of its head.

    Args:
        recipe: of the run.
        settings: its objective.
        head: of the recipe.

    Raises:
        RecipeError: the node has a fault, the class is not a `RolloutReward`, or its prompt is not that of the head.
    """
    reward = make(_reward_node(recipe, settings), "rewards")
    if not isinstance(reward, RolloutReward):
        raise RecipeError(
            f"objective.reward: {type(reward).__name__} is not a RolloutReward; derive it from "
            "basereward.rl.rewards.contracts.RolloutReward"
        )
    own, of_head = (
        getattr(reward, "prompt", None),
        getattr(getattr(head, "branch_template", None), "judge_prompt", None),
    )
    if reward.trains == "judge" and own is not None and of_head is not None and own.text != of_head.text:
        raise RecipeError(
            f"objective.reward.prompt is '{own.name}', and model.head asks by '{of_head.name}'; the judge would be "
            "used with another prompt than it is trained with. Set only model.head.prompt"
        )
    return reward


def _reward_node(recipe: Recipe, settings: RolloutObjective) -> Node:
    """The node of the reward. A judge gets the prompt of its head, unless the node has one of its own."""
    node: Node = dict(settings.reward or {"_target_": "verdict"})
    if node["_target_"] == "verdict" and node.get("prompt") in (None, "pairwise_thinking"):
        for key in ("prompt", "prompt_file"):
            if recipe.model.head.get(key) is not None:
                node[key] = recipe.model.head[key]
    return node


def _read(recipe: Recipe, reward: RolloutReward, head: nn.Module) -> tuple[str, Encoder, RolloutRows]:
    """The path of the start, the encoder, and the rows."""
    path = start_path(recipe, head)
    encoder = recipe_encoder(recipe, path=path, head=head)
    if reward.trains == "policy":
        # A prompt of the policy, and not of the head, which it does not use.
        encoder = encoder.with_branch_template(None)
    return (
        path,
        encoder,
        RolloutRows(recipe, encoder=encoder, rejections_file=rejections_file(recipe, remove_earlier=is_first())),
    )


def start_path(recipe: Recipe, head: nn.Module) -> str:
    """The hub id or the folder of the checkpoint that learning starts from.

    Args:
        recipe: of the run.
        head: of the recipe; a warning is logged where the start is a judge with another prompt.

    Raises:
        BaseRewardError: `model.start` names no model, or one that writes no text.
    """
    if recipe.model.start is None:
        return backbone_path(recipe.model.backbone)
    folder = resolve_model(recipe.model.start)
    if not (folder / CARD).is_file():
        return str(folder)
    prompt, template = folder / PROMPT, getattr(head, "branch_template", None)
    if template is not None and prompt.is_file() and prompt.read_text(encoding="utf-8") != template.text:
        logger.warning(
            "model.start '%s' was trained with another prompt than that of model.head; set model.head.prompt or "
            "model.head.prompt_file to have the same",
            recipe.model.start,
        )
    return str(chat_checkpoint(folder))


def _revision(recipe: Recipe, path: str) -> str | None:
    """That of the recipe's backbone; a start in a folder has none."""
    backbone = recipe.model.backbone
    return backbone.revision if path == backbone.path else None


def _load(recipe: Recipe, path: str) -> Policy:
    settings, encoding = recipe.model.backbone, recipe.data.encoding
    policy = load_policy(
        path,
        revision=_revision(recipe, path),
        dtype=getattr(torch, settings.dtype),
        image_backend=encoding.image_backend,
        min_pixels=encoding.min_pixels,
        max_pixels=encoding.max_pixels,
    )
    freeze(policy.model, settings.freeze)
    return policy


def policy_objective(settings: RolloutObjective) -> PolicyObjective:
    """The objective of the trainer.

    Args:
        settings: of the recipe.

    Raises:
        RecipeError: two settings do not go together.

    >>> from basereward.model.losses.contracts import PreferenceLoss
    >>> from basereward.training.objectives.rollouts.grpo import GRPO
    >>> policy_objective(GRPO(PreferenceLoss(), beta=0.04)).kl
    'loss'
    """
    return PolicyObjective(
        settings.name,
        baseline=settings.baseline,
        kl=settings.kl,
        beta=settings.beta,
        clip=settings.clip,
        ratio_bounds=settings.ratio_bounds,
        filter=settings.filter,
    )


def monitored(recipe: Recipe, metrics: dict[str, float]) -> str:
    """The name of the metric that chooses the best weights.

    Args:
        recipe: of the run.
        metrics: of a validation, the first measure of the reward first.

    Raises:
        RecipeError: `trainer.monitor` names a metric that is not measured.

    >>> monitored(Recipe(), {"val/exact_match": 0.5, "val/reward": 0.4})
    'val/exact_match'
    """
    name = recipe.trainer.monitor
    if name in metrics:
        return name
    if name != MONITOR:
        raise RecipeError(
            f"trainer.monitor is {name}, which is not measured; measured are {', '.join(metrics)}. Name one of them"
        )
    return next(iter(metrics))
