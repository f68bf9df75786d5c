"""The settings of an objective that learns from rewards of rollouts. They import no TRL, so that a check needs none."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Interval
from torch import nn

from basereward.data.batching.tree_batch import TreeBatch
from basereward.errors import ModelError
from basereward.model.generation.prompts import PAIRWISE
from basereward.model.heads.contracts import is_generative
from basereward.model.losses.contracts import PreferenceLoss
from basereward.model.reward_model import RewardModel
from basereward.training.objectives.contracts import LossAndParts, Objective

RolloutBaseline = Literal["batch", "group"]
RolloutEngine = Literal["auto", "shared_prefix", "transformers", "vllm"]


class RolloutObjective(Objective):
    """Learns from rewards of rollouts: base class of StableReinforce, REINFORCE++ and GRPO.

    Args:
        loss: not used: rollouts are rewarded, and not ranked.
        reward: what a rollout earns: a node, whose names are the files of `basereward/rl/rewards`. Null: `verdict`,
            which trains a judge; the others train a policy.
        rollouts_per_prompt: texts that are written for each prompt. TRL needs at least 2.
        updates: optimizer steps for each generation of rollouts. With 2, each step uses half of the rollouts.
        max_tokens: of a rollout; a longer one is truncated.
        temperature: of sampling.
        top_p: sampling draws from the smallest set of tokens that together have this probability.
        beta: weight of the KL penalty against the model that the training starts from; 0: none.
        clip: how far the ratio of probabilities under the new and the old policy may differ from 1.
        keep_reference: log the KL divergence from the start even if `beta` is 0. It needs a second copy of the model.
        held_out: most rows of a held-out split that are answered in a validation, evenly spread; null: all.
        rollouts: what writes them. `shared_prefix`: transformers, after one pass over each prompt and its images;
            `transformers`: a pass for each rollout, as in TRL; `vllm`: vLLM, on a GPU; `auto`: `shared_prefix` for a
            model that can, and else `transformers`.
        vllm_mode: `colocate`: vLLM shares the GPUs of the training; `server`: a server on other GPUs.
        vllm_server_base_url: address of the server; null: port 8000 of this machine.
        vllm_gpu_memory_utilization: share of a GPU's memory that vLLM takes, with `colocate`.
        vllm_tensor_parallel_size: GPUs that share one copy of the weights in vLLM, with `colocate`.
        vllm_enable_sleep_mode: vLLM frees its memory during the optimizer steps, with `colocate`.

    >>> RolloutObjective(PreferenceLoss(), max_tokens=64).rollouts_per_prompt
    8
    """

    name: ClassVar[str] = ""
    """Name of the objective in messages and metrics."""
    kl: ClassVar[Literal["reward", "loss"]] = "reward"
    """Where the KL penalty is added: to the reward of each token, or to the loss."""

    def __init__(
        self,
        loss: PreferenceLoss,
        *,
        reward: dict[str, Any] | None = None,
        rollouts_per_prompt: Annotated[int, Interval(ge=2, le=1024)] = 8,
        updates: Annotated[int, Interval(ge=1, le=64)] = 1,
        max_tokens: Annotated[int, Interval(ge=1, le=131_072)] = 1024,
        temperature: Annotated[float, Interval(gt=0, le=100)] = 1.0,
        top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0,
        beta: Annotated[float, Interval(ge=0, le=100)] = 0.0,
        clip: Annotated[float, Interval(gt=0, lt=1)] = 0.2,
        keep_reference: bool = False,
        held_out: Annotated[int, Ge(1)] | None = None,
        rollouts: RolloutEngine = "auto",
        vllm_mode: Literal["colocate", "server"] = "colocate",
        vllm_server_base_url: str | None = None,
        vllm_gpu_memory_utilization: Annotated[float, Interval(gt=0, le=1)] = 0.3,
        vllm_tensor_parallel_size: Annotated[int, Ge(1)] = 1,
        vllm_enable_sleep_mode: bool = False,
    ) -> None:
        super().__init__(loss)
        self.reward = reward
        self.rollouts_per_prompt = rollouts_per_prompt
        self.updates = updates
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.beta = beta
        self.clip = clip
        self.keep_reference = keep_reference
        self.held_out = held_out
        self.rollouts, self.vllm_mode = rollouts, vllm_mode
        self.vllm_server_base_url = vllm_server_base_url
        self.vllm_gpu_memory_utilization = vllm_gpu_memory_utilization
        self.vllm_tensor_parallel_size = vllm_tensor_parallel_size
        self.vllm_enable_sleep_mode = vllm_enable_sleep_mode
        self.baseline: RolloutBaseline = "batch"
        self.ratio_bounds: tuple[float, float] | None = None
        self.filter: Literal["paper", "code", "off"] = "off"

    def check_head(self, head: nn.Module) -> None:
        """Check that a judge can write the texts that the reward `verdict` reads; a policy uses no head.

        Raises:
            ModelError: the head does not compare two answers, or writes no reasoning.
        """
        if self.reward is not None and self.reward.get("_target_") != "verdict":
            return
        prompt = getattr(getattr(head, "branch_template", None), "judge_prompt", None)
        if is_generative(head) and getattr(prompt, "fields", None) == PAIRWISE and getattr(head, "thinking", False):
            return
        raise ModelError(
            f"objective '{self.name or type(self).__name__}' with the reward 'verdict' trains a judge that compares "
            f"two answers and writes its reasoning, and the head is a {type(head).__name__}. Set model.head="
            "{_target_: generative, thinking: true}, or another reward"
        )

    def forward(self, model: RewardModel, batch: TreeBatch) -> LossAndParts:
        """
        Raises:
            ModelError: always: these objectives have their own loop.
        """
        raise ModelError(
            f"objective '{self.name or type(self).__name__}' learns from texts that the model writes, and Lightning's "
            "loop writes none. Call basereward.rl.run.train_policy(recipe), or `basereward train`"
        )
