"""Engines that write rollouts: transformers' `generate`, the same with shared prefixes, and vLLM."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from basereward.errors import BaseRewardError, RecipeError, TrainingError
from basereward.model.generation.shared_prefix import shared_prefix_fault
from basereward.training.objectives.rollouts.contracts import RolloutObjective
from basereward.training.parallel.collectives import is_first

logger = logging.getLogger(__name__)


def shares_prefixes(settings: RolloutObjective, model: Any) -> bool:
    """Whether the rollouts of a prompt are written after one pass over it.

    Args:
        settings: of the objective. With `rollouts=auto` a model that cannot share prefixes repeats its prompts.
        model: the policy, with or without adapters.

    Raises:
        RecipeError: `rollouts=shared_prefix`, and the model cannot.
    """
    if settings.rollouts not in ("auto", "shared_prefix"):
        return False
    fault = shared_prefix_fault(model)
    if fault is None:
        return True
    message = f"a {model.config.model_type} model cannot share the prefixes of its rollouts: {fault}"
    if settings.rollouts == "shared_prefix":
        raise RecipeError(f"objective.rollouts is shared_prefix, and {message}. Set it to auto or transformers")
    if is_first():
        logger.warning("%s; each rollout reads its prompt again (objective.rollouts=transformers)", message)
    return False


def vllm_options(settings: RolloutObjective, *, device: torch.device, ranks: int) -> dict[str, Any]:
    """The options of `GRPOConfig` for rollouts by vLLM; {} for other engines.

    Args:
        settings: of the objective.
        device: of the training.
        ranks: processes of the training.

    Raises:
        RecipeError: there is no GPU, or `vllm_tensor_parallel_size` does not divide the number of processes.

    >>> from basereward.model.losses.contracts import PreferenceLoss
    >>> from basereward.training.objectives.rollouts.grpo import GRPO
    >>> settings = GRPO(PreferenceLoss(), rollouts="vllm", vllm_gpu_memory_utilization=0.4)
    >>> vllm_options(settings, device=torch.device("cuda"), ranks=1)["vllm_gpu_memory_utilization"]
    0.4
    """
    if settings.rollouts != "vllm":
        return {}
    if device.type != "cuda":
        raise RecipeError(
            f"objective.rollouts is vllm, which needs a GPU that torch calls cuda, and the run is on {device.type}. "
            "Set objective.rollouts=auto"
        )
    if settings.vllm_mode == "colocate" and ranks % settings.vllm_tensor_parallel_size:
        raise RecipeError(
            f"objective.vllm_tensor_parallel_size is {settings.vllm_tensor_parallel_size}, and must divide the number "
            f"of devices of the training, {ranks}"
        )
    return {
        "use_vllm": True,
        "vllm_mode": settings.vllm_mode,
        "vllm_server_base_url": settings.vllm_server_base_url,
        "vllm_gpu_memory_utilization": settings.vllm_gpu_memory_utilization,
        "vllm_tensor_parallel_size": settings.vllm_tensor_parallel_size,
        "vllm_enable_sleep_mode": settings.vllm_enable_sleep_mode,
    }


@contextmanager
def vllm_faults(settings: RolloutObjective) -> Iterator[None]:
    """In the block, errors of the start of vLLM become ours.

    Args:
        settings: of the objective; with another engine nothing is changed.

    Raises:
        TrainingError: vLLM does not start, or its server does not answer.
    """
    try:
        yield
    except BaseRewardError:
        # Some are a `ValueError` or a `RuntimeError` too, and say themselves what to correct.
        raise
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        if settings.rollouts != "vllm":
            raise
        where = "the vLLM server does not answer" if settings.vllm_mode == "server" else "vLLM does not start"
        raise TrainingError(f"{where}: {error}. Correct objective.vllm_..., or set objective.rollouts=auto") from error
