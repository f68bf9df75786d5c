"""Estimates the size of forward passes and the memory of reinforcement learning before any rollout exists.

Every rollout is assumed to have `objective.max_tokens`, so the numbers are upper bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from basereward.data.encoding.encoder import Size
from basereward.model.cost.memory import Memory, PassTokens
from basereward.model.losses.contracts import PreferenceLoss
from basereward.recipe import make
from basereward.recipe.checks.parallel import micro_batch_groups
from basereward.recipe.checks.rollouts import learns_from_rollouts
from basereward.recipe.schema import Recipe
from basereward.training.objectives.rollouts.contracts import RolloutObjective


@dataclass(frozen=True, slots=True)
class PromptSize:
    """The size of a prompt.

    Attributes:
        tokens: with its images, and with both answers if it is a judge's.
        patches: of its images.

    >>> PromptSize(tokens=300, patches=64).tokens
    300
    """

    tokens: int
    patches: int = 0


def rollout_settings(recipe: Recipe) -> RolloutObjective:
    """The settings of a recipe's objective.

    Args:
        recipe: whose objective learns from rollouts.

    Raises:
        RecipeError: the node has a fault.

    >>> rollout_settings(Recipe(objective={"_target_": "grpo", "max_tokens": 64})).max_tokens
    64
    """
    assert recipe.objective is not None
    settings = make(recipe.objective, "objectives", PreferenceLoss())
    assert isinstance(settings, RolloutObjective)
    return settings


def trains_judge(settings: RolloutObjective) -> bool:
    """Whether the policy is the judge of the recipe's head; otherwise the head is not used."""
    return settings.reward is None or settings.reward.get("_target_") == "verdict"


def uses_head(recipe: Recipe) -> bool:
    """Whether a run trains the head of its recipe, and not a policy that answers prompts.

    >>> uses_head(Recipe()), uses_head(Recipe(objective={"_target_": "grpo", "reward": {"_target_": "rule"}}))
    (True, False)
    """
    return not learns_from_rollouts(recipe.objective) or trains_judge(rollout_settings(recipe))


def modelled(recipe: Recipe) -> Recipe:
    """The recipe with a head that writes text, for the estimate of a policy, which does not use the head of its recipe.

    Args:
        recipe: of the run; one whose objective does not learn from rollouts stays as it is.

    >>> rule = {"_target_": "grpo", "reward": {"_target_": "rule"}}
    >>> modelled(Recipe(objective=rule)).model.head["_target_"]
    'generative'
    """
    if uses_head(recipe):
        return recipe
    return replace(recipe, model=replace(recipe.model, head={"_target_": "generative", "thinking": True}))


def prompt_size(size: Size, *, patches: int, of_judge: bool) -> PromptSize:
    """The size of the prompt of a group.

    Args:
        size: of the group.
        patches: of its images.
        of_judge: whether the prompt has both answers.

    >>> prompt_size(Size(prefix=20, branches=(5, 7), images=0), patches=0, of_judge=True).tokens
    27
    """
    return PromptSize(size.prefix + (max(size.branches) if of_judge else 0), patches)


def largest_rollouts(recipe: Recipe, prompts: Sequence[PromptSize]) -> PassTokens:
    """The size of a forward pass of the rollouts of the largest prompts.

    Args:
        recipe: of the run.
        prompts: a sample of its prompts.

    >>> recipe = Recipe(objective={"_target_": "grpo", "rollouts_per_prompt": 2, "max_tokens": 10})
    >>> largest_rollouts(recipe, [PromptSize(30)]).tokens  # 8 prompts, 2 rollouts each
    640
    """
    settings = rollout_settings(recipe)
    number = micro_batch_groups(recipe)
    largest = sorted(prompts, key=lambda prompt: prompt.tokens)[-number:] or [PromptSize(1)]
    # A pass of more prompts than were sampled has some of their size more.
    rollouts = settings.rollouts_per_prompt * number / len(largest)
    tokens = rollouts * sum(prompt.tokens + settings.max_tokens for prompt in largest)
    patches = rollouts * sum(prompt.patches for prompt in largest)
    # The log-probabilities are those of the rollouts' own tokens.
    return PassTokens(
        round(tokens), pooled=round(rollouts * settings.max_tokens * len(largest)), patches=round(patches)
    )


def with_reference(recipe: Recipe, held: Memory) -> Memory:
    """The memory of a run with that of its reference model, which adapters do not need.

    Args:
        recipe: of the run; one whose objective does not learn from rollouts has none.
        held: without a reference model.

    >>> held = Memory(weights=8, gradients=8, moments=16, copies=0, activations=3)
    >>> with_reference(Recipe(objective={"_target_": "grpo", "beta": 0.04}), held).weights
    16
    """
    if not learns_from_rollouts(recipe.objective) or recipe.model.lora is not None:
        return held
    settings = rollout_settings(recipe)
    if not (settings.beta or settings.keep_reference):
        return held
    return replace(held, weights=2 * held.weights)
