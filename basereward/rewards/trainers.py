"""The reward functions of other trainers, in the form that each of them calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from basereward.errors import DataError
from basereward.inference.rewards.reward_source import RewardSource, Rollout, open_source
from basereward.serve.protocols.openrlhf import split_query

TRLReward = Callable[..., list[float]]


def trl(model: str, *, images: Sequence[str] = ("images", "image"), **options: Any) -> TRLReward:
    """A reward function for `reward_funcs` of TRL's GRPOTrainer and its kin.

    Args:
        model: as in `basereward.load`, or the address of a server.
        images: columns of the data set that may hold the images of a prompt; the first that a row has is read.
        options: `scale`, `clip`, `unscorable`; `device`, `dtype` and `trust` of a model, or `key` of a server. See
            `basereward.inference.rewards.reward_source.RewardSource`.

    Example:
        trainer = GRPOTrainer(policy, reward_funcs=basereward.rewards.trl("RUN", scale="sigmoid"), ...)
    """
    source = open_source(model, **options)

    def basereward_reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        """One reward for each completion."""
        rollouts: list[Rollout] = []
        for place, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            pictures = _column_images(columns, images, place)
            # TRL puts the images into the parts of messages, too; they must not be counted twice.
            own = () if _has_images(prompt) else pictures
            rollouts.append(Rollout(prompt, _completion_text(completion), own))
        return source.rewards(rollouts)

    return basereward_reward


def _column_images(columns: Mapping[str, Any], names: Sequence[str], place: int) -> Sequence[Any]:
    for name in names:
        values = columns.get(name)
        if values is not None and values[place] is not None:
            value = values[place]
            return list(value) if isinstance(value, list | tuple) else [value]
    return ()


def _has_images(prompt: Any) -> bool:
    """Whether a part of a message holds its image, and not only the place of one."""
    if isinstance(prompt, str):
        return False
    for message in prompt:
        content = message.get("content")
        if isinstance(content, list) and any(part.get("image") is not None for part in content):
            return True
    return False


def _completion_text(completion: Any) -> str:
    """The text of a completion: a text, or messages of which the last is the response.

    Raises:
        DataError: the completion has several turns or a tool call, which a reward model does not read.

    >>> _completion_text([{"role": "assistant", "content": "4"}])
    '4'
    """
    if isinstance(completion, str):
        return completion
    if len(completion) != 1 or not isinstance(completion[0].get("content"), str):
        raise DataError("a completion has several turns or no text; a reward is given for one text of the assistant")
    return str(completion[0]["content"])


class ms_swift:
    """A reward of ms-swift's GRPO: an object that is called with the completions and the columns of the data set.

    Args:
        model: as in `basereward.load`, or the address of a server.
        options: as in `trl`.

    Example:
        orms["basereward"] = lambda: basereward.rewards.ms_swift("RUN")  # in a file of --external_plugins
    """

    def __init__(self, model: str, **options: Any) -> None:
        self._source: RewardSource = open_source(model, **options)

    def __call__(
        self, completions: Sequence[str], messages: Sequence[Sequence[Mapping[str, Any]]], **columns: Any
    ) -> list[float]:
        """One reward for each completion.

        Args:
            completions: texts of the policy.
            messages: the conversation of each, with or without the completion as its last turn.
            columns: `images`, if there are any, and others, which are not read.
        """
        rollouts: list[Rollout] = []
        for place, (completion, conversation) in enumerate(zip(completions, messages, strict=True)):
            prompt = list(conversation)
            if prompt and prompt[-1]["role"] == "assistant":
                prompt.pop()
            pictures = _column_images(columns, ("images",), place)
            # ms-swift's images are objects `{"bytes", "path"}`, as in the data sets library.
            rollouts.append(Rollout(prompt, completion, pictures))
        return self._source.rewards(rollouts)


def verl(model: str, *, prompt: str = "prompt", images: str = "images", **options: Any) -> Callable[..., float]:
    """A `compute_score` of verl, for `reward.custom_reward_function`.

    Args:
        model: as in `basereward.load`, or the address of a server. Each reward worker of verl calls it, so a server is
            the better choice for a large model.
        prompt, images: keys of `extra_info` with the prompt and its images, which verl does not pass otherwise.
        options: as in `trl`.
    """
    source = open_source(model, **options)

    def compute_score(
        data_source: str, solution_str: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None, **_: Any
    ) -> float:
        """The reward of one response."""
        if extra_info is None or prompt not in extra_info:
            raise DataError(f"extra_info has no key {prompt!r} with the prompt; add it when you prepare the data")
        pictures = extra_info.get(images)
        rollout = Rollout(extra_info[prompt], solution_str, [] if pictures is None else list(pictures))
        return source.rewards([rollout])[0]

    return compute_score


def openrlhf(model: str, **options: Any) -> Callable[..., dict[str, Any]]:
    """A `reward_func` of OpenRLHF, for a file that `--remote_rm_url` names.

    Args:
        model: as in `basereward.load`, or the address of a server.
        options: as in `trl`.
    """
    source = open_source(model, **options)

    def reward_func(
        queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any] = (), **_: Any
    ) -> dict[str, Any]:
        """Rewards as a tensor for each query, which is a prompt with its response."""
        import torch

        rollouts = [Rollout(*split_query(query, prompt)) for query, prompt in zip(queries, prompts, strict=True)]
        rewards = torch.tensor(source.rewards(rollouts))
        return {"rewards": rewards, "scores": rewards, "extra_logs": {}}

    return reward_func
