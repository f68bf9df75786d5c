"""Lightning's strategy for a recipe: how several processes share the work, and what each of them holds."""

from __future__ import annotations

import inspect
from typing import Any

from pytorch_lightning.strategies import DDPStrategy, Strategy
from torch.nn.parallel import DistributedDataParallel

from basereward.recipe.checks.parallel import num_ranks
from basereward.recipe.schema import Recipe
from basereward.training.parallel.launch import WAIT
from basereward.training.parallel.sharded_strategy import ShardedStrategy

SCALAR_HEADS = ("linear", "mlp")


def build_strategy(recipe: Recipe) -> Strategy | str:
    """Build the strategy of a recipe.

    A single device has nothing to share, so it is trained alike with every strategy.

    Args:
        recipe: of the run; `auto` is ddp here, see `chosen_strategy`.

    >>> build_strategy(Recipe())
    'auto'
    """
    if num_ranks(recipe) == 1:
        return "auto"
    if recipe.trainer.strategy == "fsdp2":
        return ShardedStrategy(
            num_ranks(recipe),
            frees_weights=recipe.trainer.shard == "weights",
            mixed=recipe.trainer.precision == "bf16-mixed",
            timeout=WAIT,
        )
    return DDPStrategy(
        # Otherwise a weight without a gradient is an error.
        find_unused_parameters=_may_leave_weights_unused(recipe),
        # Gradients are kept once, in the memory in which they travel.
        gradient_as_bucket_view=True,
        timeout=WAIT,
        **_without_buffers(),
    )


def _may_leave_weights_unused(recipe: Recipe) -> bool:
    """Whether a step may use only a part of the trained weights.

    Scalar heads use all of them. A generative head may learn no text, and so not use the language-model head; and
    nothing is known about classes of the user. To look for unused weights costs a pass over the graph and, where all
    are used, a warning of PyTorch.
    """
    targets = [node.get("_target_", "") for node in (recipe.model.head, recipe.loss, recipe.objective or {})]
    return recipe.model.head.get("_target_") not in SCALAR_HEADS or any("." in target for target in targets)


def _without_buffers() -> dict[str, Any]:
    """The option that leaves buffers alone: they are constants of the backbone, such as rotary frequencies."""
    # torch 2.13 renamed it, and the old name warns.
    name = "forward_sync_buffers"
    has_new_name = name in inspect.signature(DistributedDataParallel.__init__).parameters
    return {name if has_new_name else "broadcast_buffers": False}
