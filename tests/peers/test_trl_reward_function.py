"""Test that TRL's GRPOTrainer trains a small Qwen2.5-VL with a reward model of ours, pictures included.

It runs with BASEREWARD_PEERS=1, as `test_trl_reward_trainer.py` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from datasets import Dataset
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import basereward.rewards
from basereward.inference.scorer import load_scorer
from basereward.model.policy import ImageTextProcessor
from tests.helpers.served_model import save_scored_model

pytestmark = pytest.mark.peers
RED = PIL.Image.new("RGB", (56, 56), "red")


def test_grpo_with_pictures_logs_our_scores(tmp_path: Path) -> None:
    """In two steps of two rollouts each, the reward that TRL logs is the mean of `score` of these rollouts."""
    import trl

    folder = save_scored_model(tmp_path, head="mlp")
    scorer = load_scorer(folder)
    backbone = tmp_path / "backbone"
    reward = basereward.rewards.trl(str(folder))
    rollouts: list[tuple[str, str]] = []

    def recorded(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        for prompt, completion in zip(prompts, completions, strict=True):
            rollouts.append((prompt[-1]["content"][-1]["text"], completion[0]["content"]))
        return reward(prompts, completions, **columns)

    tokenizer = AutoTokenizer.from_pretrained(backbone)
    rows = [{"prompt": [{"role": "user", "content": f"Which colour is {n}?"}], "image": RED} for n in range(4)]
    settings = trl.GRPOConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=2,
        per_device_train_batch_size=2,
        num_generations=2,
        max_completion_length=8,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
    )
    trainer = trl.GRPOTrainer(
        model=Qwen2_5_VLForConditionalGeneration.from_pretrained(backbone),
        reward_funcs=recorded,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=ImageTextProcessor(
            Qwen2VLImageProcessorPil.from_pretrained(backbone), tokenizer, chat_template=tokenizer.chat_template
        ),
    )
    trainer.train()
    logged = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    scores = [
        scorer.score([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}], [answer],
                     images=[RED])[0]
        for text, answer in rollouts
    ]  # fmt: skip
    assert logged == pytest.approx([sum(scores[:2]) / 2, sum(scores[2:]) / 2], abs=1e-5)
