"""Test what a run adds to TRL's trainer, without a training: how held-out rows are answered, and failed rewards."""

from __future__ import annotations

import logging
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import GenerationConfig, TrainerState
from trl import GRPOTrainer

from basereward.errors import ModelError, NothingToLearnError, TrainingError
from basereward.rl.running import run_trainer
from basereward.rl.running.run_trainer import USELESS, RunTrainer
from basereward.rl.trainer import JudgeTrainer


def bare_trainer() -> Any:
    """A trainer without rows, with a model that has dropout."""
    trainer: Any = RunTrainer.__new__(RunTrainer)
    trainer.model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
    trainer.generation_kwargs = {"do_sample": True, "temperature": 1.0}
    trainer.generation_config = GenerationConfig(**trainer.generation_kwargs)
    trainer.use_vllm = False
    return trainer


@pytest.mark.parametrize(("is_training", "use_vllm"), [(True, False), (False, False), (True, True)])
def test_held_out_rows_are_answered_without_dropout(is_training: bool, use_vllm: bool) -> None:
    """The model has the mode and the random numbers of before afterwards, also after an error; vLLM answers none."""
    trainer = bare_trainer()
    trainer.use_vllm = use_vllm
    trainer.model.train(is_training)
    state = torch.get_rng_state()

    def answer() -> None:
        with trainer._greedy():
            assert not trainer.generation_config.do_sample
            assert not trainer.use_vllm
            assert not any(module.training for module in trainer.model.modules())
            torch.rand(1)
            raise ModelError("the judge is gone")

    with pytest.raises(ModelError):
        answer()
    assert {module.training for module in trainer.model.modules()} == {is_training}
    assert trainer.generation_config.do_sample
    assert trainer.use_vllm is use_vllm
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("ranks", "is_useless", "saves"), [(1, False, 1), (2, False, 0), (2, True, 1)])
def test_no_checkpoint_that_other_processes_do_not_write(
    ranks: int, is_useless: bool, saves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reward may fail in one process of several. That rollouts are useless is found in all of them."""

    def generate(self: Any, inputs: Any) -> dict[str, Any]:
        if is_useless:
            return {}
        raise ModelError("the judge is gone")

    def refuse(batch: Any) -> None:
        raise TrainingError("nothing to learn")

    saved: list[int] = []
    monkeypatch.setattr(JudgeTrainer, "_generate_and_score_completions", generate)
    monkeypatch.setattr(run_trainer, "num_ranks", lambda: ranks)
    trainer = bare_trainer()
    trainer._check_useful = refuse
    trainer.save_now = lambda: saved.append(1)
    with pytest.raises(TrainingError if is_useless else ModelError):
        trainer._generate_and_score_completions([])
    assert len(saved) == saves


def test_policy_that_writes_nothing_stops_in_the_third_generation() -> None:
    """Rollouts that are only an end of turn; one longer rollout between them begins the count again."""
    trainer = bare_trainer()
    trainer._useless = dict.fromkeys(USELESS, 0)
    trainer._metrics = {"train": {}}
    trainer._sum_over_ranks = lambda values: values
    trainer.state = SimpleNamespace(global_step=4)
    trainer.model.train()
    empty = {"completion_mask": torch.tensor([[1, 0], [1, 0]])}
    written = {"completion_mask": torch.tensor([[1, 1], [1, 0]])}
    for batch in (empty, empty, written, empty, empty):
        trainer._check_useful(batch)
    with pytest.raises(NothingToLearnError, match="writes nothing"):
        trainer._check_useful(empty)


@pytest.mark.parametrize(("rewards", "stops"), [([0.0, 0.0], True), ([0.0, 1.0], False), ([0.5, float("nan")], True)])
def test_truncated_rollouts_with_different_rewards_are_learned_from(rewards: list[float], stops: bool) -> None:
    """Three generations in which every rollout is truncated stop a run only if their rewards say nothing either."""
    trainer = bare_trainer()
    trainer.state = SimpleNamespace(global_step=0)
    trainer._useless = dict.fromkeys(run_trainer.USELESS, 0)
    trainer._metrics = {"train": {"completions/clipped_ratio": [1.0], "rewards/unscored": [0.0]}}
    trainer._sum_over_ranks = lambda values: values
    trainer._rewards = torch.tensor(rewards)
    batch = {"completion_mask": torch.ones(2, 4)}
    for _ in range(run_trainer.PATIENCE - 1):
        trainer._check_useful(batch)
    if stops:
        with pytest.raises(TrainingError, match="max_tokens"):
            trainer._check_useful(batch)
    else:
        trainer._check_useful(batch)


def test_no_row_is_logged_for_a_rollout_without_reward(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """TRL's own method warns with the row, its prompt and images, which is not logged; its other warnings are, also one
    that begins in the same way."""
    trl = logging.getLogger(GRPOTrainer.__module__)
    begins_alike = "All reward functions returned None for the following kwargs, and training stops"

    def reward(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float | None]:
        for text in ("another one", begins_alike):
            trl.warning(text)
        return [None, 1.0]

    monkeypatch.setattr(f"{GRPOTrainer.__module__}.gather", lambda rewards: rewards)
    trainer = bare_trainer()
    trainer.accelerator = Accelerator(cpu=True)
    trainer.args, trainer.state, trainer.environments = SimpleNamespace(report_to=[]), TrainerState(), None
    trainer.reward_funcs, trainer.reward_processing_classes = [reward], [None]
    trainer.reward_func_names, trainer.reward_func_is_async = ["reward"], [False]
    trainer._pending_extra_logs = {}
    trainer._metrics = {"train": defaultdict(list)}
    trainer.reward_weights = torch.ones(1)
    trainer._calculate_rewards([{"id": "secret"}] * 2, ["secret"] * 2, ["a", "b"], [[1], [2]])
    assert [record.getMessage() for record in caplog.records] == ["another one", begins_alike]
    assert trainer._metrics["train"]["rewards/unscored"] == [0.5]
